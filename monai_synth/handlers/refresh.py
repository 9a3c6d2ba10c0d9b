"""Batch statistics of averaged weights, measured instead of averaged."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset

from monai_synth.checkpoints import unwrapped
from monai_synth.networks.spectral_norm import SpectralNorm

_MEASURED = ("running_mean", "running_var")


@torch.no_grad()
def refresh_batch_norm(
    network: nn.Module, batches: Iterable[Mapping[str, Any]], forward: Callable[[Mapping[str, Any]], object]
) -> None:
    """Set the running statistics of all batch norms to the mean over some batches, in training mode.

    OASIS runs its averaged generator over 51 training batches before it judges or saves it, which moves the old
    statistics by the usual momentum and the spectral norms by as many power iterations. Here the statistics are the
    plain mean over the batches, and every other buffer stays as it is.

    Args:
        network: changed in place; nothing is done where it has no batch norms.
        batches: what ``forward`` takes.
        forward: runs ``network`` on a batch.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    measured = {id(getattr(norm, name)) for norm in norms for name in _MEASURED}
    kept = [(buffer, buffer.clone()) for buffer in network.buffers() if id(buffer) not in measured]
    momenta, was_training = [norm.momentum for norm in norms], network.training
    spectral_norms = [m for m in network.modules() if isinstance(m, SpectralNorm)]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's word for the cumulative mean
    for module in spectral_norms:
        module.is_frozen = True
    try:
        for batch in batches:
            forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module in spectral_norms:
            module.is_frozen = False
        for buffer, before in kept:
            buffer.copy_(before)
        network.train(was_training)


def first_batches(loader: Iterable[Any], num_batches: int) -> Iterator[Any]:
    """The first batches of the running epoch once more.

    Loaded in this process: a second iterator over a loader with persistent workers would end the first one.

    Args:
        loader: of the training.
        num_batches: at most; an epoch may have fewer.
    """
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_sampler is None
    ):
        yield from islice(loader, num_batches)
        return
    for indices in islice(loader.batch_sampler, num_batches):
        yield loader.collate_fn([loader.dataset[index] for index in indices])


@contextmanager
def standing_in(players: MutableMapping[str, nn.Module], network: nn.Module, substitute: nn.Module) -> Iterator[bool]:
    """Let an objective use another network in place of one of its players, or of one that a player is made of.

    Yields:
        Whether ``network`` was found.
    """
    containers: list[MutableMapping[str, Any]] = [players]
    containers += [module._modules for player in list(players.values()) for module in unwrapped(player).modules()]
    places = [
        (container, name, module)
        for container in containers
        for name, module in container.items()
        if isinstance(module, nn.Module) and unwrapped(module) is network
    ]
    for container, name, _ in places:
        container[name] = substitute
    try:
        yield bool(places)
    finally:
        for container, name, module in places:
            container[name] = module

"""What a variant of a training step changes in memory: the layout of weights, and their precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_synth.engines import FusedAdam, SynthesisTrainer


def lay_out(network: nn.Module, optimizer: Optimizer, *, channels_last: bool) -> None:
    """Lay out weights and moments, in place, and forget the gradients."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in network.parameters():
        parameter.grad = None
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
            state = optimizer.state[parameter]
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim == 4:
                    state[key] = value.contiguous(memory_format=layout)


class _MasterAdam:
    """Adam on fp32 copies of bf16 weights; one weight after the other passes through the same fp32 gradient."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        self.masters = [nn.Parameter(p.data) for p in self.weights]
        options = {key: optimizer.param_groups[0][key] for key in ("lr", "betas")}
        self.inner = FusedAdam(self.masters, **options)
        for weight, master in zip(self.weights, self.masters, strict=True):
            self.inner.state[master] = optimizer.state[weight]
            if weight.ndim > 1:
                weight.data = master.data.to(torch.bfloat16)
        self.gradient = torch.empty(max(p.numel() for p in self.weights))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for weight in self.weights:
            weight.grad = None

    def step(self) -> None:
        """Update the copies, then round them."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            if weight.grad is None:
                continue
            if weight.ndim > 1:
                master.grad = self.gradient.as_strided(master.shape, master.stride()).copy_(weight.grad)
            else:
                master.grad = weight.grad
            self.inner.step()
            master.grad = None
            if weight.ndim > 1:
                weight.data.copy_(master.data)

    def restore(self) -> None:
        """Give the fp32 weights back."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.grad = None
            weight.data = master.data


@contextmanager
def master_weights(trainer: SynthesisTrainer) -> Iterator[None]:
    """Train with weights in bf16 and their fp32 copies in the optimiser; a measure that monai_synth does not have."""
    before: dict[str, Any] = dict(trainer.optimizers)
    masters = {name: _MasterAdam(optimizer) for name, optimizer in before.items()}
    trainer.optimizers = masters  # type: ignore[assignment]
    try:
        yield
    finally:
        for master in masters.values():
            master.restore()
        trainer.optimizers = before


@contextmanager
def compiled(*networks: nn.Module) -> Iterator[None]:
    """Run networks as compiled code."""
    for network in networks:
        network.compile()
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None
        torch.compiler.reset()

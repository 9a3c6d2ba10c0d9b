"""Exponential moving average of a generator's weights."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
import torch.distributed
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from monai_synth.checkpoints import load_state, unwrapped
from monai_synth.errors import ConfigError
from monai_synth.handlers.random_state import preserved_random_state
from monai_synth.handlers.refresh import first_batches, refresh_batch_norm, standing_in
from monai_synth.networks.spectral_norm import follow_weights

_SINGULAR_VECTORS = (".parametrizations.weight.0._u", ".parametrizations.weight.0._v")
Buffers = Literal["average", "copy", "published"]


def share_buffers(module: nn.Module) -> None:
    """Give all processes the buffers of the first one.

    Gradients are shared, so weights agree; batch-norm statistics are each process's own where PyTorch cannot
    synchronise them (CPU). Does nothing with one process.
    """
    if torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


class EMA:
    """Keeps ``w_ema = d * w_ema + (1 - d) * w`` after every step of the model's optimiser.

    Validation and inference use ``network``.

    Args:
        model: the trained generator, bare or wrapped for distributed training.
        decay: the final ``d``; OASIS and USIS use 0.999 to 0.9999, shorter trainings less.
        warm_up: let the decay grow as ``min(decay, (1 + n) / (10 + n))`` with the number of steps ``n``, and take the
            weights after the first step as they are, so that short trainings are not held back by their start weights.
            ``False``: as published for OASIS, ``d`` from the first step on and an average that begins with the start
            weights.
        buffers: ``"average"``: running means and variances of norms like weights; everything else is copied from the
            model: the counters of norms, which are whole numbers. The vectors of spectral normalisation follow the
            averaged weights by one power iteration a step; their own average would have no unit length and belong to no
            matrix. ``"copy"``: all buffers are copied, also the running
            statistics, which then are those of other weights; sensible with ``refresh_batch_norm``. ``"published"``:
            every entry of the state dict is averaged, counters cut off to whole numbers, as the code of OASIS and USIS
            does.
        refresh_batch_norm: training batches that ``network`` is run on in training mode, to measure its running
            statistics, before it is validated and saved, see :func:`monai_synth.handlers.refresh.refresh_batch_norm`;
            0: none, OASIS: 50. The training draws the same random numbers with and without.
        refresh_interval: epochs between refreshes, the last epoch always: give the interval of the validation.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.999,
        *,
        warm_up: bool = True,
        buffers: Buffers = "average",
        refresh_batch_norm: int = 0,
        refresh_interval: int = 1,
    ) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                f"EMA decay={decay}: must be at least 0 and below 1 (0 follows the trained weights exactly)."
            )
        if buffers not in get_args(Buffers):
            raise ConfigError(f"EMA buffers={buffers!r}: choose one of {', '.join(map(repr, get_args(Buffers)))}.")
        if refresh_batch_norm < 0 or refresh_interval < 1:
            raise ConfigError(
                f"EMA refresh_batch_norm={refresh_batch_norm}, refresh_interval={refresh_interval}: give 0 batches "
                "(none) or more, and an interval of 1 epoch or more."
            )
        self.model = unwrapped(model)
        self.decay = decay
        self.warm_up = warm_up
        self.buffers = buffers
        self.refresh_batch_norm = refresh_batch_norm
        self.refresh_interval = refresh_interval
        self._network = copy.deepcopy(self.model).requires_grad_(False)
        self._num_steps = 0
        self._player = ""

    @property
    def network(self) -> nn.Module:
        """The averaged generator."""
        return self._network

    def attach(self, engine: Any) -> None:
        """Update after each iteration in which the model stepped; at the end of an epoch all processes agree."""
        own = {id(p) for p in self.model.parameters()}
        players = getattr(getattr(engine, "objective", None), "players", {})
        self._player = next((name for name, p in players.items() if any(id(w) in own for w in p.parameters())), "")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        if self.refresh_batch_norm:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._refresh_if_due)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: share_buffers(self.network))

    @torch.no_grad()
    def update(self, engine: Engine) -> None:
        """Blend the current weights in; not while gradients are being accumulated or the model's player pauses."""
        if not getattr(engine.state, "is_step", True):
            return
        if self._player and self._player not in getattr(engine.state, "stepped_players", (self._player,)):
            return
        decay = min(self.decay, (1 + self._num_steps) / (10 + self._num_steps)) if self.warm_up else self.decay
        if self.warm_up and self._num_steps == 0:
            decay = 0.0
        self._num_steps += 1
        _blend(self.network.parameters(), self.model.parameters(), 1 - decay)
        averaged = _statistics(self.model) if self.buffers == "average" else set()
        is_first = self._num_steps == 1
        for (name, average), (_, current) in zip(self.network.named_buffers(), self.model.named_buffers(), strict=True):
            if self.buffers == "published" or name in averaged:
                average.copy_(decay * average + (1 - decay) * current)  # whole numbers are cut off
            elif is_first or not name.endswith(_SINGULAR_VECTORS):
                average.copy_(current)
        if self.buffers != "published":
            follow_weights(self.network)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights and the number of updates."""
        return {"num_steps": self._num_steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an average."""
        load_state(self.network, state["network"], source="the average")
        self._num_steps = int(state["num_steps"])

    def _refresh_if_due(self, engine: Any) -> None:
        if engine.state.epoch % self.refresh_interval and engine.state.epoch != engine.state.max_epochs:
            return
        loader = engine.data_loader
        generator = getattr(loader, "generator", None)
        with (
            preserved_random_state(generator),
            standing_in(engine.objective.players, self.model, self.network) as is_player,
        ):

            def forward(data: Mapping[str, Any]) -> None:
                batch = engine.prepare_batch(data, engine.state.device, engine.non_blocking)
                if is_player:
                    engine.objective.generate(batch)  # with noise, style or whatever else it gives in training
                else:
                    self.network(batch["condition"])

            refresh_batch_norm(self.network, first_batches(loader, self.refresh_batch_norm), forward)


def _blend(averages: Iterable[Tensor], currents: Iterable[Tensor], weight: float) -> None:
    groups: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    for average, current in zip(averages, currents, strict=True):
        group = groups.setdefault((average.device, average.dtype), ([], []))
        group[0].append(average)
        group[1].append(current.detach())
    for mine, theirs in groups.values():
        torch._foreach_lerp_(mine, theirs, weight)


def _statistics(network: nn.Module) -> set[str]:
    """Names of the running means and variances."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, _NormBase) and module.track_running_stats
        for name in ("running_mean", "running_var")
    }

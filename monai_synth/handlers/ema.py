"""Exponential moving average of a generator's weights."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from monai_synth.errors import ConfigError


def share_buffers(module: nn.Module) -> None:
    """Give all processes the buffers of the first one.

    Gradients are shared, so weights agree; batch-norm statistics are each process's own where PyTorch cannot
    synchronise them (CPU). Does nothing with one process.
    """
    if torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


class EMA:
    """Keeps ``w_ema = d * w_ema + (1 - d) * w`` after every optimiser step; validation and inference use ``network``.

    The decay grows as ``min(decay, (1 + n) / (10 + n))`` with the number of steps ``n``, so that short trainings are
    not held back by their first weights. Floating-point buffers (batch-norm statistics) are averaged like weights.

    Args:
        model: the trained generator, bare or wrapped for distributed training.
        decay: the final ``d``; OASIS and USIS use 0.999 to 0.9999, shorter trainings less.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                f"EMA decay={decay}: must be at least 0 and below 1 (0 follows the trained weights exactly)."
            )
        self.model = getattr(model, "module", model)
        self.decay = decay
        self._weight = 0.0
        self._average = AveragedModel(self.model, multi_avg_fn=self._blend, use_buffers=True)
        self._average.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """The averaged generator."""
        return self._average.module

    def attach(self, engine: Engine) -> None:
        """Update after each iteration in which the optimisers stepped; at the end of an epoch all processes agree."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: share_buffers(self.network))

    def update(self, engine: Engine) -> None:
        """Blend the current weights in; not while gradients are still being accumulated."""
        if getattr(engine.state, "is_step", True):
            steps = int(self._average.n_averaged)
            self._weight = 1 - min(self.decay, (1 + steps) / (10 + steps))
            self._average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights and the number of updates."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an average."""
        self._average.load_state_dict(state)

    def _blend(self, averages: Sequence[Tensor], currents: Sequence[Tensor], _: Any) -> None:
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, self._weight)
            else:
                average.copy_(current)

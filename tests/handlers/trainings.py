"""A toy training with everything that a checkpoint holds."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from monai_synth.engines import SynthesisTrainer, linear_decay
from monai_synth.handlers import EMA, History, TrainingCheckpoint

MakeTrainer = Callable[..., SynthesisTrainer]


def assemble(
    make_trainer: MakeTrainer,
    folder: Path,
    *,
    record: dict[str, Any] | None = None,
    stop_signals: Sequence[str] = ("SIGTERM",),
    ema: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[SynthesisTrainer, TrainingCheckpoint, EMA]:
    trainer = make_trainer(**options)
    players = trainer.objective.players
    average = EMA(players["generator"], **{"decay": 0.9, **(ema or {})})
    schedules = {
        f"{name}_schedule": torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay(4))
        for name, optimizer in trainer.optimizers.items()
    }
    history = History(folder / "history.csv")
    average.attach(trainer)
    for schedule in schedules.values():
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _, schedule=schedule: schedule.step())
    history.attach(trainer)
    optimizers = {f"{name}_optimizer": optimizer for name, optimizer in trainer.optimizers.items()}
    parts = {**players, **optimizers, **schedules, "ema": average, "history": history}
    checkpoint = TrainingCheckpoint(folder, parts, record=record, stop_signals=stop_signals)
    checkpoint.attach(trainer)
    return trainer, checkpoint, average


def everything(trainer: SynthesisTrainer, average: EMA) -> dict[str, torch.Tensor]:
    """All that a training leaves, and what would be drawn next."""
    players = trainer.objective.players
    flat = {f"{name}.{key}": value for name, player in players.items() for key, value in player.state_dict().items()}
    flat |= {f"ema.{key}": value for key, value in average.network.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            flat |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    flat["random"] = torch.tensor([torch.rand(1).item(), np.random.rand(), random.random()])  # noqa: NPY002
    return flat


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key

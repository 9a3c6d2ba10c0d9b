"""A tiny training with everything that a bundle's has: average, validation, best model, early stop, history."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.handlers import ValidationHandler
from torch.utils.data import DataLoader

from monai_synth.checkpoints import load_file
from monai_synth.engines import SynthesisEvaluator, SynthesisTrainer, linear_decay
from monai_synth.handlers import EMA, BestModel, EarlyStop, History, TrainingCheckpoint
from tests.engines.tiny_objectives import Items, build, flatten, kind_of, main_generator

# The second epoch is the best: a training that forgets it takes the third for the best so far.
MAE_HU = {1: 20.0, 2: 10.0, 3: 15.0}
NUM_EPOCHS = len(MAE_HU)
NUM_ITERATIONS = 3  # an epoch: six cases in batches of two


class Training:
    """One training of an objective, as a process would run it from start or resume to its end.

    Args:
        name: of the objective, see :mod:`tests.engines.tiny_objectives`.
        folder: of its files.
        seed: of the start weights and of all generators; a resume replaces both.
        batch_size: of the loader, which draws its order from torch's own generator.
        without: parts that the checkpoint is not given.
        **options: of the trainer.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        seed: int = 0,
        batch_size: int = 2,
        without: tuple[str, ...] = (),
        objective: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.objective = build(name, seed=seed, **(objective or {}))
        self.items = Items(kind_of(name), num_items=6)
        optimizers = {
            player: torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
            for player, network in self.objective.players.items()
        }
        self.trainer = SynthesisTrainer(
            device="cpu",
            train_data_loader=DataLoader(self.items, batch_size=batch_size, shuffle=True),
            objective=self.objective,
            optimizers=optimizers,
            **{"max_epochs": NUM_EPOCHS, **options},
        )
        self.ema = EMA(main_generator(self.objective), decay=0.9)
        self.schedules = {
            f"{player}_schedule": torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay(4))
            for player, optimizer in optimizers.items()
        }
        self.evaluator = SynthesisEvaluator(
            device="cpu",
            val_data_loader=DataLoader(self.items, batch_size=1),
            network=self.ema.network,
            inferer=lambda condition, network: torch.randn_like(condition),  # networks that draw move the generators
        )
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._measure)
        self.best = BestModel(self.ema.network, folder / "model.pt")
        self.best.attach(self.evaluator)
        self.early_stop = EarlyStop(self.evaluator, patience=9)
        self.history = History(folder / "history.csv", self.evaluator)
        self.ema.attach(self.trainer)
        ValidationHandler(interval=1, validator=self.evaluator).attach(self.trainer)
        for schedule in self.schedules.values():
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _, schedule=schedule: schedule.step())
        self.early_stop.attach(self.trainer)
        self.history.attach(self.trainer)
        parts = {
            **self.objective.players,
            **{f"{player}_optimizer": optimizer for player, optimizer in optimizers.items()},
            **self.schedules,
            **({"objective": self.objective} if hasattr(self.objective, "state_dict") else {}),
            "ema": self.ema,
            "best": self.best,
            "early_stop": self.early_stop,
            "history": self.history,
        }
        self.checkpoint = TrainingCheckpoint(folder, {k: v for k, v in parts.items() if k not in without})
        self.checkpoint.attach(self.trainer)
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)  # noqa: NPY002 - MONAI draws from this one

    def _measure(self, engine: Any) -> None:
        engine.state.metrics["mae_hu"] = MAE_HU[engine.state.epoch]

    def run(self, *, resume: bool = False) -> "Training":
        """Train to the end, or until a signal."""
        self.checkpoint.start(self.trainer, resume=resume)
        self.trainer.run()
        return self

    def everything(self) -> dict[str, torch.Tensor]:
        """All that the training leaves, and what would be drawn next."""
        keeps_state = hasattr(self.objective, "state_dict")
        states = {
            "players": {name: player.state_dict() for name, player in self.objective.players.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.trainer.optimizers.items()},
            "schedules": {name: schedule.last_epoch for name, schedule in self.schedules.items()},
            "objective": self.objective.state_dict() if keeps_state else {},
            "ema": self.ema.state_dict(),
            "best": self.best.state_dict(),
            "early_stop": self.early_stop.state_dict(),
            "model.pt": load_file(self.folder / "model.pt"),
            "place": (self.trainer.state.epoch, self.trainer.state.iteration),
            "drawn next": (torch.rand(1).item(), np.random.rand(), random.random()),  # noqa: NPY002
        }
        return dict(flatten(states))


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of what is not bit by bit the same."""
    missing = one.keys() ^ other.keys()
    return sorted(missing | {key for key in one.keys() & other.keys() if not torch.equal(one[key], other[key])})

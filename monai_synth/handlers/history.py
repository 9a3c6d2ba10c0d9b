"""The course of a training as a CSV file."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_synth.checkpoints import naming_file
from monai_synth.handlers.outputs import named_losses


class History:
    """Writes one row an epoch: mean of every loss, learning rate, seconds and, where there are any, metrics.

    Metrics of the training itself are ``train_*``, those of a validation ``val_*``. A loss that is not computed in
    every iteration is averaged over those in which it is. The means also go into ``engine.state.metrics``. A resumed
    training continues the file; rows of epochs that are run again are replaced. Among the parts of the checkpoint, it
    also has complete means for an epoch that was interrupted.

    Args:
        file: the CSV.
        evaluator: the validation engine whose metrics are recorded.
    """

    def __init__(self, file: str | Path, evaluator: Engine | None = None) -> None:
        self.file = Path(file)
        self.evaluator = evaluator
        self._epoch = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._since = 0.0
        self._names: set[str] = set()
        self._learning_rate = float("nan")

    def attach(self, engine: Engine) -> None:
        """Record on the first process only."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def state_dict(self) -> dict[str, Any]:
        """Sums of the running epoch."""
        return {
            "epoch": self._epoch,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "seconds": self._seconds + time.monotonic() - self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on adding, if the next epoch to start is the one that was interrupted."""
        self._epoch, self._seconds = int(state["epoch"]), float(state["seconds"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _start(self, engine: Any) -> None:
        self._since = time.monotonic()
        if self._epoch != engine.state.epoch:
            self._epoch, self._seconds, self._sums, self._counts = engine.state.epoch, 0.0, {}, {}
        optimizers = getattr(engine, "optimizers", {})
        optimizer = optimizers.get("generator") or next(iter(optimizers.values()), None)
        if optimizer is not None:
            self._learning_rate = optimizer.param_groups[0]["lr"]

    def _add(self, engine: Engine) -> None:
        for name, value in named_losses(engine.state.output).items():
            if name != "loss":
                before = self._sums.get(name, torch.zeros_like(value))
                self._sums[name] = before.to(value.device) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def _write(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        means = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        for name in self._names - means.keys():  # of a player that paused for the whole epoch
            engine.state.metrics.pop(name, None)
        row: dict[str, Any] = {
            "epoch": epoch,
            "seconds": round(self._seconds + engine.state.times[Events.EPOCH_COMPLETED.name], 2),
            "lr": self._learning_rate,
            **means,
            **{
                f"train_{name}": v for name, v in engine.state.metrics.items() if name not in self._names | means.keys()
            },
        }
        self._names |= means.keys()
        engine.state.metrics.update(means)
        if self.evaluator is not None and self.evaluator.state.epoch == epoch:
            row |= {f"val_{name}": value for name, value in self.evaluator.state.metrics.items()}
        table = pd.DataFrame([row])
        if self.file.exists() and epoch > 1:
            before = pd.read_csv(self.file)
            table = pd.concat([before[before["epoch"] < epoch], table], ignore_index=True)
        temporary = self.file.with_suffix(".csv.part")
        with naming_file(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(temporary, index=False)
            os.replace(temporary, self.file)

"""The course of a training as a CSV file."""

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import Tensor


class History:
    """Writes one row an epoch: mean of every loss, learning rate, seconds and, where validated, ``val_*``.

    The means also go into ``engine.state.metrics``. A resumed training continues the file; rows of epochs that are run
    again are replaced.

    Args:
        file: the CSV.
        evaluator: the validation engine whose metrics are recorded.
    """

    def __init__(self, file: str | Path, evaluator: Engine | None = None) -> None:
        self.file = Path(file)
        self.evaluator = evaluator
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._learning_rate = float("nan")

    def attach(self, engine: Engine) -> None:
        """Record on the first process only."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Any) -> None:
        self._sums, self._count = {}, 0
        optimizers = getattr(engine, "optimizers", {})
        optimizer = optimizers.get("generator") or next(iter(optimizers.values()), None)
        if optimizer is not None:
            self._learning_rate = optimizer.param_groups[0]["lr"]

    def _add(self, engine: Engine) -> None:
        self._count += 1
        for name, value in engine.state.output.items():
            if isinstance(value, Tensor) and value.ndim == 0 and name != "loss":
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def _write(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        means = {name: (total / self._count).item() for name, total in self._sums.items()}
        engine.state.metrics.update(means)
        row: dict[str, Any] = {
            "epoch": epoch,
            "seconds": round(engine.state.times[Events.EPOCH_COMPLETED.name], 2),
            "lr": self._learning_rate,
            **means,
        }
        if self.evaluator is not None and self.evaluator.state.epoch == epoch:
            row |= {f"val_{name}": value for name, value in self.evaluator.state.metrics.items()}
        table = pd.DataFrame([row])
        if self.file.exists() and epoch > 1:
            before = pd.read_csv(self.file)
            table = pd.concat([before[before["epoch"] < epoch], table], ignore_index=True)
        temporary = self.file.with_suffix(".csv.part")
        table.to_csv(temporary, index=False)
        os.replace(temporary, self.file)

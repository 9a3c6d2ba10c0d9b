"""A progress bar on a terminal, one line an epoch in a log file."""

import sys
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from monai_synth.handlers.metric_names import metric_value, require_metric
from monai_synth.handlers.outputs import named_losses


class Progress:
    """Shows the losses of the running epoch, and their means (from ``History``, attached before) after it as a line.

    Args:
        evaluator: the validation engine, whose metrics are printed when it has run.
        metric: name and unit of the metric that decides which model is best, such as ``"mae_hu"``.
    """

    def __init__(self, evaluator: Engine | None = None, metric: str = "mae_hu") -> None:
        self.evaluator = evaluator
        self.metric = metric

    def attach(self, engine: Engine) -> None:
        """Only the first process of a distributed training shows anything.

        Raises:
            ConfigError: if the validation will not compute the metric.
        """
        if self.evaluator is not None:
            require_metric(self.evaluator, self.metric, decides=False)
        if idist.get_rank() > 0:
            return
        if sys.stderr.isatty():
            bar = ProgressBar(persist=False, desc="epoch")
            bar.attach(engine, output_transform=_scalars)
        engine.add_event_handler(Events.STARTED, self._print_start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._print_epoch)

    def _print_start(self, engine: Any) -> None:
        device = engine.state.device
        where = f"{device}, {torch.get_num_threads()} thread(s)" if device.type == "cpu" else str(device)
        slices, steps = len(engine.data_loader.dataset), engine.state.epoch_length
        line = f"training on {slices} slices, {steps} steps an epoch, {where}, {engine.precision}"
        print(line, flush=True)  # noqa: T201 - the terminal is this handler's output

    def _print_epoch(self, engine: Engine) -> None:
        parts = [f"epoch {engine.state.epoch}/{engine.state.max_epochs}"]
        parts += [f"{name} {value:.3g}" for name, value in engine.state.metrics.items()]
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            state = self.evaluator.state
            parts.append(f"validation {self.metric} {metric_value(self.evaluator, self.metric):.2f}")
            parts.append(f"(best {state.best_metric:.2f} at epoch {state.best_metric_epoch})")
        print("  ".join(parts), flush=True)  # noqa: T201 - the terminal is this handler's output


def _scalars(output: Any) -> dict[str, float]:
    return {name: value.item() for name, value in named_losses(output).items()}

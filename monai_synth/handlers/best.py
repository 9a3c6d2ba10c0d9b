"""The best model so far, with what it was trained on."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from monai_synth.checkpoints import save_weights
from monai_synth.handlers.metric_names import metric_value, require_metric


class BestModel:
    """Writes ``model.pt`` whenever the validation metric improves.

    ``model.pt`` is the bare state dict that MONAI's bundles, MONAI Label and Deploy expect; ``model.json`` beside it
    holds the metric, the intensity contract and the patients that were trained on, which evaluation uses to refuse
    leakage.

    Args:
        network: whose weights are kept, usually the averaged generator.
        file: ``…/model.pt``.
        metric: which metric of the validation decides.
        is_higher_better: direction of the metric.
        record: JSON-able description of the training, see ``describe_run``.
    """

    def __init__(
        self,
        network: nn.Module,
        file: str | Path,
        *,
        metric: str = "mae_hu",
        is_higher_better: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.file = Path(file)
        self.metric = metric
        self.is_higher_better = is_higher_better
        self.record = dict(record or {})
        self.value = math.nan
        self.epoch = 0

    def attach(self, engine: Engine) -> None:
        """Compare at the end of each validation.

        Raises:
            ConfigError: if the validation will not compute the metric, or it has no direction.
        """
        require_metric(engine, self.metric)
        engine.add_event_handler(Events.COMPLETED, self._compare)

    def state_dict(self) -> dict[str, float]:
        """Best value so far and its epoch."""
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from the best so far, so that a resumed training cannot replace a better model by a worse one."""
        self.value, self.epoch = float(state["value"]), int(state["epoch"])

    def _compare(self, engine: Engine) -> None:
        value = metric_value(engine, self.metric)
        better = value > self.value if self.is_higher_better else value < self.value
        if better or math.isnan(self.value):
            self.value, self.epoch = value, engine.state.epoch
            if idist.get_rank() == 0:
                self._write()
        engine.state.best_metric, engine.state.best_metric_epoch = self.value, self.epoch

    def _write(self) -> None:
        value = None if math.isnan(self.value) else self.value
        save_weights(
            self.network,
            self.file,
            extra_json={**self.record, "epoch": self.epoch, "metric": self.metric, "value": value},
        )

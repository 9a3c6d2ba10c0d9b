"""End a training that has stopped to become better."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from monai_synth.errors import ConfigError
from monai_synth.handlers.metric_names import metric_value, require_metric


class EarlyStop:
    """Ends a training after a number of validations without improvement, by Ignite's ``EarlyStopping``.

    Attach it to the trainer after the validation and before the checkpoint, and make it one of the checkpoint's parts:
    a resumed training then goes on counting, and one that was ended stays so until it gets more patience.

    Args:
        evaluator: the validation engine.
        patience: validations without improvement, not epochs; ``None`` never ends a training.
        metric: which of the evaluator's metrics decides.
        is_higher_better: direction of the metric.
        min_delta: a smaller improvement counts as none; unit of the metric.

    Raises:
        ConfigError: for a patience below 1 or a negative ``min_delta``.
    """

    def __init__(
        self,
        evaluator: Engine,
        *,
        patience: int | None,
        metric: str = "mae_hu",
        is_higher_better: bool = False,
        min_delta: float = 0.0,
    ) -> None:
        if (patience is not None and patience < 1) or min_delta < 0:
            raise ConfigError(
                f"EarlyStop(patience={patience}, min_delta={min_delta}): patience is 1 validation or more, min_delta 0 "
                "or more."
            )
        self.evaluator = evaluator
        self.metric = metric
        self.is_higher_better = is_higher_better
        # Of the trainer only terminate() is used, and attach() says which one it is.
        never = sys.maxsize
        self._rule = EarlyStopping(patience or never, self._score, Engine(lambda *_: None), threshold=min_delta)

    def attach(self, engine: Engine) -> None:
        """Ask after each epoch that was validated.

        Raises:
            ConfigError: if the validation will not compute the metric, or it has no direction.
        """
        require_metric(self.evaluator, self.metric)
        self._rule.trainer = engine
        engine.add_event_handler(Events.STARTED, self._stay_stopped)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._ask)

    def state_dict(self) -> dict[str, Any]:
        """Best value so far (negated where lower is better) and validations since."""
        return dict(self._rule.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._rule.load_state_dict(state)

    def _score(self, _: Engine) -> float:
        value = metric_value(self.evaluator, self.metric)
        # Ignite takes NaN for an improvement.
        return -math.inf if math.isnan(value) else value if self.is_higher_better else -value

    def _ask(self, engine: Any) -> None:
        if self.evaluator.state.epoch != engine.state.epoch:
            return
        self._rule(self.evaluator)
        if self._rule.counter >= self._rule.patience:
            self._say(engine)

    def _stay_stopped(self, engine: Any) -> None:
        if self._rule.counter >= self._rule.patience:
            self._say(engine)
            engine.terminate()

    def _say(self, engine: Any) -> None:
        if idist.get_rank() == 0:
            print(  # noqa: T201 - the terminal says why a training is over
                f"stopped early at epoch {engine.state.epoch}: {self._rule.counter} validations without a better "
                f"{self.metric}; more patience trains on",
                flush=True,
            )

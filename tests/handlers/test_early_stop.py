"""A training ends when its validation does not get better, and remembers that."""

import math
from typing import Any

import pytest
from ignite.engine import Engine, Events, State

from monai_synth.errors import ConfigError
from monai_synth.handlers import EarlyStop


def _train(
    values: list[float], *, start: int = 0, state: dict[str, Any] | None = None, every: int = 1, **options: Any
) -> tuple[Engine, EarlyStop]:
    """A training whose validation gives one value after the other."""
    numbers = iter(values)
    validator = Engine(lambda *_: None)
    trainer = Engine(lambda *_: None)

    def validate(engine: Engine) -> None:
        if engine.state.epoch % every == 0:
            validator.state.epoch, validator.state.metrics["mae_hu"] = engine.state.epoch, next(numbers)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    stop = EarlyStop(validator, **{"patience": 2, **options})
    stop.attach(trainer)
    if state is not None:
        stop.load_state_dict(state)
    trainer.state = State(epoch=start, iteration=start, epoch_length=1, max_epochs=20, metrics={}, seed=0)
    trainer.run([0])
    return trainer, stop


def test_stops_after_so_many_validations_without_improvement(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, stop = _train([50, 40, 45, 39, 39.5, 39.0, 1])
    assert trainer.state.epoch == 6
    assert stop.state_dict()["best_score"] == -39
    assert "stopped early at epoch 6: 2 validations without a better mae_hu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "options", "epoch"),
    [
        ([1, 2, 1, 1], {"is_higher_better": True}, 4),
        ([50, 49, 48.5, 47, 46], {"min_delta": 2}, 3),
        ([math.nan, math.nan, math.nan], {}, 3),
        ([math.nan, 40, math.nan, math.nan], {}, 4),
        ([50, 51, 52], {"every": 3}, 9),
        ([50] * 20, {"patience": None}, 20),
    ],
)
def test_what_counts_as_improvement(values: list[float], options: dict[str, Any], epoch: int) -> None:
    trainer, _ = _train(values, **options)
    assert trainer.state.epoch == epoch


def test_a_resumed_training_goes_on_counting() -> None:
    trainer, stop = _train([50, 51] + [1] * 18)
    state = {**stop.state_dict(), "counter": 1, "best_score": -50.0}
    trainer, _ = _train([52], start=7, state=state)
    assert trainer.state.epoch == 8


def test_a_training_that_was_stopped_stays_so_until_it_gets_more_patience() -> None:
    _, stop = _train([50, 51, 52])
    trainer, _ = _train([], start=3, state=stop.state_dict())
    assert trainer.state.epoch == 3
    trainer, _ = _train([53], start=3, state=stop.state_dict(), patience=3)
    assert trainer.state.epoch == 4


@pytest.mark.parametrize("options", [{"patience": 0}, {"min_delta": -1.0}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"patience is 1 validation or more"):
        _train([], **options)

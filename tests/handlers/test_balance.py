"""Warnings when one side of an adversarial training has lost."""

import logging
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_synth.handlers import BalanceMonitor


def _play(caplog: pytest.LogCaptureFixture, epochs: list[dict[str, list[float]]], **options: Any) -> list[str]:
    """Warnings of a training with these losses, iteration by iteration."""
    steps = [
        dict(zip(losses, values, strict=True)) for losses in epochs for values in zip(*losses.values(), strict=True)
    ]
    numbers = iter(steps)
    engine = Engine(lambda *_: {name: torch.tensor(value) for name, value in next(numbers).items()})
    BalanceMonitor(**options).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0] * (len(steps) // len(epochs)), max_epochs=len(epochs))
    return [record.getMessage() for record in caplog.records]


def _flat(d_real: float, d_fake: float, g_gan: float = 1.0) -> dict[str, list[float]]:
    return {"d_real": [d_real] * 8, "d_fake": [d_fake] * 8, "g_gan": [g_gan] * 8}


def test_a_discriminator_that_wins_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = _play(caplog, [_flat(0.1, 0.1), _flat(0.004, 0.002), _flat(0.001, 0.001)])
    assert "mean losses in epoch 2 were d_real 0.004, d_fake 0.002" in message
    assert "player_intervals={'discriminator': 2}" in message


@pytest.mark.parametrize(
    "losses",
    [
        _flat(0.125, 0.125),  # least squares in balance
        _flat(0.001, 0.1),  # one side only
        _flat(-0.005, 0.004),  # Wasserstein
        {"g_l1": [0.001] * 8},  # no adversary
    ],
)
def test_other_losses_are_no_reason(caplog: pytest.LogCaptureFixture, losses: dict[str, list[float]]) -> None:
    assert _play(caplog, [losses, losses]) == []


def _growing(first: float, last: float) -> dict[str, list[float]]:
    return {"g_gan": torch.linspace(first, last, 8).tolist()}


def test_a_generator_that_loses_ground_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = _play(caplog, [_growing(1, 4), _growing(2, 5), _growing(2, 9)])
    assert "g_gan rose from 2.21 to 4.79 within epoch 2" in message


@pytest.mark.parametrize(
    "losses", [_growing(2, 2.5), _growing(5, 2), {"g_gan": [1.0, 1, 3, 3, 2, 2, 5, 5]}, {"g_gan": [1.0, 2, 3, 4]}]
)
def test_other_courses_are_no_reason(caplog: pytest.LogCaptureFixture, losses: dict[str, list[float]]) -> None:
    assert _play(caplog, [losses, losses]) == []


def test_thresholds_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    messages = _play(caplog, [_flat(0.1, 0.1)] * 2, low=0.2)
    assert len(messages) == 1

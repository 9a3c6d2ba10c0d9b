"""Learning-rate factors."""

import pytest

from monai_synth.engines import linear_decay
from monai_synth.errors import ConfigError


def test_linear_decay_is_the_published_schedule_stepped_at_the_end_of_epochs() -> None:
    # n_epochs = 4, n_epochs_decay = 3: the official list, shifted right by one (the 2020 code steps one epoch early).
    factor = linear_decay(7, constant_fraction=4 / 7)
    assert [factor(epoch) for epoch in range(7)] == pytest.approx([1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_all_constant_never_decays() -> None:
    factor = linear_decay(5, constant_fraction=1.0)
    assert {factor(epoch) for epoch in range(5)} == {1.0}


def test_never_negative_beyond_the_end() -> None:
    assert linear_decay(4)(40) == 0.0


@pytest.mark.parametrize(("epochs", "fraction"), [(0, 0.5), (5, 1.5), (5, -0.1)])
def test_nonsense_is_refused(epochs: int, fraction: float) -> None:
    with pytest.raises(ConfigError, match="linear_decay"):
        linear_decay(epochs, constant_fraction=fraction)

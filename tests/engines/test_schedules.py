"""Learning-rate factors."""

import json
from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from monai_synth.engines import cosine_decay, late_linear_decay, linear_decay, per_iteration, step_decay, warm_up
from monai_synth.errors import ConfigError


def rates(factor: Callable[[int], float], num_steps: int) -> list[float]:
    """Learning rates that torch's scheduler uses in the first steps, beginning with 2e-4."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=2e-4)
    scheduler = LambdaLR(optimizer, factor)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("pix2pix_linear", linear_decay(7, constant_fraction=4 / 7)),
        ("pix2pix_step", step_decay(2)),
        ("pix2pix_cosine", cosine_decay(4)),
        ("pix2pixHD_niter4_decay3", late_linear_decay(7, constant_fraction=4 / 7)),
    ],
)
def test_equals_the_published_rates(shared_dir, name, factor) -> None:
    official = json.loads((shared_dir / "golden" / "schedules.json").read_text())["values"][name]
    if name.startswith("pix2pix_"):  # the 2020 code steps one epoch early
        official = [2e-4, *official[:-1]]
    # In the epoch behind its last pix2pix has the rate 0 and then goes below.
    assert rates(factor, len(official)) == pytest.approx(official, rel=1e-12, abs=1e-18)


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


def test_late_linear_decay_ends_above_zero_and_can_be_constant() -> None:
    factor = late_linear_decay(4)
    assert [factor(epoch) for epoch in range(6)] == [1, 1, 1, 0.5, 0, 0]
    assert {late_linear_decay(5, constant_fraction=1.0)(epoch) for epoch in range(9)} == {1.0}


def test_cosine_decay_over_the_whole_training_never_rises_and_has_a_lowest_share() -> None:
    factor = cosine_decay(10, lowest=0.1)
    found = [factor(epoch) for epoch in range(11)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[5], found[10]) == pytest.approx((1, 0.55, 0.1))


def test_a_warm_up_leads_into_any_schedule() -> None:
    assert rates(warm_up(lambda step: 1.0, 3), 5) == pytest.approx([0.5e-4, 1e-4, 1.5e-4, 2e-4, 2e-4])
    warmed, plain = warm_up(linear_decay(8), 2), linear_decay(8)
    assert [warmed(step) / plain(step) for step in range(8)] == pytest.approx([1 / 3, 2 / 3, *[1] * 6])
    assert [warm_up(plain, 0)(step) for step in range(8)] == [plain(step) for step in range(8)]


def test_a_warm_up_by_iterations_keeps_the_rate_of_every_epoch() -> None:
    factor = warm_up(per_iteration(step_decay(2, gamma=0.5), 3), 4)
    found = [factor(iteration) for iteration in range(15)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, *[0.5] * 6, *[0.25] * 3])


def test_a_resumed_scheduler_goes_on_with_more_epochs() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    first = LambdaLR(optimizer, warm_up(cosine_decay(4), 1))
    for _ in range(3):
        optimizer.step()
        first.step()
    second = LambdaLR(optimizer, warm_up(cosine_decay(8), 1))
    second.load_state_dict(first.state_dict())
    optimizer.step()
    second.step()
    assert second.get_last_lr() == pytest.approx([cosine_decay(8)(4)])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: late_linear_decay(0), "late_linear_decay"),
        (lambda: late_linear_decay(5, constant_fraction=2), "late_linear_decay"),
        (lambda: step_decay(0), "step_decay"),
        (lambda: step_decay(3, gamma=0), "gamma=0"),
        (lambda: cosine_decay(0), "cosine_decay"),
        (lambda: cosine_decay(3, lowest=-0.1), "lowest=-0.1"),
        (lambda: warm_up(linear_decay(3), -1), "warm_up"),
        (lambda: per_iteration(linear_decay(3), 0), "iterations_per_epoch=0"),
    ],
)
def test_other_nonsense_is_refused(make, match) -> None:
    with pytest.raises(ConfigError, match=match):
        make()

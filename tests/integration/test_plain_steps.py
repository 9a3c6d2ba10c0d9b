"""Our steps give the losses of the published order of operations in plain PyTorch, and so do the measures for speed."""

import copy
from typing import Any

import pytest
import torch

from benchmarks.methods import methods, run_step
from benchmarks.plain_steps import Measures
from benchmarks.variants import Bench

ALL, HD, OASIS = ("pix2pix", "pix2pixHD", "OASIS"), ("pix2pixHD",), ("OASIS",)
CHANGES: dict[str, tuple[tuple[str, ...], Measures, dict[str, bool]]] = {
    "the discriminator sees the fake once": (HD, Measures(share_fake=True), {}),
    "fake and real in one pass": (HD, Measures(join_passes=True), {}),
    "frozen discriminator": (HD + OASIS, Measures(freeze=True), {}),
    "gamma and beta in one convolution": (OASIS, Measures(), {"joined": True}),
    "memory kept": (("pix2pix",), Measures(), {"kept": True}),
    "channels_last": (ALL, Measures(), {"channels_last": True}),
}
CASES = [(name, change) for change, (names, *_) in CHANGES.items() for name in names]


def _make(name: str) -> Bench:
    """Tiny networks, plain and ours, with equal weights.

    Without dropout, whose masks depend on the layout, and with plain gradient descent: the first steps of Adam have the
    length of the learning rate also where the gradient is nothing but rounding.
    """
    bench = Bench.make(methods(quick=True)[name], batch_size=2)
    for players, optimizers in (
        (bench.plain.networks, bench.plain.optimizers),
        (bench.ours["fp32"].objective.players, bench.ours["fp32"].optimizers),
    ):
        for player, network in players.items():
            optimizers[player] = torch.optim.SGD(network.parameters(), lr=1e-2)
            for module in network.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
    return bench


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    return {name: _make(name) for name in ALL}


@pytest.fixture(scope="module")
def expected(benches: dict[str, Bench]) -> dict[str, list[dict[str, float]]]:
    return {name: _plain(bench, Measures()) for name, bench in benches.items()}


def _losses(step: Any) -> list[dict[str, float]]:
    torch.manual_seed(2)
    return [{name: value.item() for name, value in step().items()} for _ in range(3)]


def _plain(bench: Bench, measures: Measures, **options: bool) -> list[dict[str, float]]:
    twin = copy.deepcopy(bench)
    with twin.turn_of_plain(measures, **options):
        return _losses(lambda: twin.plain(twin.batch))


def _assert_equal(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    assert wanted[0] != pytest.approx(wanted[-1], rel=1e-3)  # the steps change something
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_ours_follow_the_plain_steps(benches: Any, expected: Any, name: str, channels_last: bool) -> None:
    twin = copy.deepcopy(benches[name])
    with twin.turn_of_ours(channels_last=channels_last):
        _assert_equal(_losses(lambda: run_step(twin.ours["fp32"], twin.batch)), expected[name])


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_measure_alone_changes_no_loss(benches: Any, expected: Any, name: str, change: str) -> None:
    _, measures, options = CHANGES[change]
    _assert_equal(_plain(benches[name], measures, **options), expected[name])

"""Averaged weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.handlers import EMA


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def _engine(is_step: bool = True) -> Any:
    return SimpleNamespace(state=SimpleNamespace(is_step=is_step))


def test_follows_the_recursion_with_warm_up() -> None:
    network = _network()
    ema = EMA(network, decay=0.9)
    expected = None
    for step in range(40):
        with torch.no_grad():
            network[0].weight += 0.1
        ema.update(_engine())
        current = network[0].weight.detach().clone()
        if expected is None:
            expected = current  # the first update takes the weights as they are
        else:
            decay = min(0.9, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * current
    torch.testing.assert_close(ema.network[0].weight, expected, atol=1e-5, rtol=0)
    assert (ema.network[0].weight < network[0].weight).all()


def test_averages_batch_norm_statistics_and_copies_counters() -> None:
    network = _network()
    ema = EMA(network, decay=0.5)
    for _ in range(3):
        network(torch.rand(4, 1, 8, 8) + 5)
        ema.update(_engine())
    averaged, trained = ema.network[1], network[1]
    assert averaged.num_batches_tracked == trained.num_batches_tracked == 3
    assert not torch.equal(averaged.running_mean, trained.running_mean)
    assert (averaged.running_mean - trained.running_mean).abs().max() < 1


def test_does_not_move_while_gradients_are_accumulated() -> None:
    network = _network()
    ema = EMA(network)
    ema.update(_engine())
    before = ema.network[0].weight.clone()
    with torch.no_grad():
        network[0].weight += 1
    ema.update(_engine(is_step=False))
    assert torch.equal(ema.network[0].weight, before)


def test_state_goes_to_a_new_average() -> None:
    network = _network()
    ema = EMA(network)
    ema.update(_engine())
    other = EMA(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ema.network.parameters(), other.network.parameters(), strict=True))


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="EMA decay"):
        EMA(_network(), decay=decay)

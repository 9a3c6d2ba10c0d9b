"""Averaged weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.utils import set_determinism
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.handlers import EMA
from monai_synth.handlers.refresh import refresh_batch_norm
from monai_synth.networks.spectral_norm import spectral_norm


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


@pytest.mark.parametrize(
    "options", [{"buffers": "all"}, {"refresh_batch_norm": -1}, {"refresh_batch_norm": 1, "refresh_interval": 0}]
)
def test_unknown_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"EMA (buffers|refresh)"):
        EMA(_network(), **options)


def _spectral_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(spectral_norm(nn.Conv2d(1, 2, 3)), nn.BatchNorm2d(2))


def _train(network: nn.Module, ema: EMA, *, steps: int = 4) -> list[dict[str, torch.Tensor]]:
    """Move weights and buffers; gives the state dict after each step."""
    states = []
    for _ in range(steps):
        network(torch.rand(4, 1, 8, 8) + 5)
        with torch.no_grad():
            for p in network.parameters():
                p += 0.1 * torch.randn_like(p)
        ema.update(_engine())
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    return states


def test_as_published_every_entry_of_the_state_dict_is_averaged_from_the_start_weights_on() -> None:
    """The update of OASIS: ``ema.data.copy_(ema.data * decay + g.data * (1 - decay))`` over the whole state dict."""
    network = _spectral_network()
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    ema = EMA(network, decay=0.9, warm_up=False, buffers="published")
    for state in _train(network, ema):
        for key, value in expected.items():
            value.copy_(value * 0.9 + state[key] * 0.1)
    found = ema.network.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)
    assert found["1.num_batches_tracked"] == 0  # 0.1, 0.2, ... cut off to whole numbers
    assert torch.linalg.vector_norm(found["0.parametrizations.weight.0._u"]) < 0.9999


def test_counters_are_copied_otherwise() -> None:
    for buffers in ("average", "copy"):
        network = _spectral_network()
        ema = EMA(network, decay=0.9, buffers=buffers)
        last = _train(network, ema)[-1]
        found = ema.network.state_dict()
        copied = {key for key in last if torch.equal(found[key], last[key])}
        statistics = {"1.running_mean", "1.running_var"}
        assert copied == {"1.num_batches_tracked"} | (statistics if buffers == "copy" else set())


class _Slices(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"condition": torch.rand(1, 8, 8, generator=generator) + index}


class _Objective:
    """A generator inside another module, that draws noise."""

    def __init__(self, network: nn.Module) -> None:
        self.players = {"both": nn.ModuleDict({"first": network, "second": nn.Linear(1, 1)})}

    def generate(self, batch: Any) -> dict[str, torch.Tensor]:
        noise = torch.randn_like(batch["condition"]) * 0.01
        return {"pred": self.players["both"]["first"](batch["condition"] + noise)}


def _refreshing_engine(network: nn.Module) -> Engine:
    engine: Any = Engine(lambda *_: None)
    engine.objective = _Objective(network)
    engine.data_loader = torch.utils.data.DataLoader(
        _Slices(), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(7)
    )
    engine.prepare_batch, engine.non_blocking = lambda batch, *_: batch, False
    engine.state.device, engine.state.is_step = "cpu", False
    return engine


def test_refreshed_statistics_are_the_mean_over_batches_and_nothing_else_moves() -> None:
    network = _spectral_network()
    ema = EMA(network, decay=0.5, refresh_batch_norm=4)
    _train(network, ema)
    before = {key: value.clone() for key, value in ema.network.state_dict().items()}
    trained = {key: value.clone() for key, value in network.state_dict().items()}
    engine = _refreshing_engine(network)
    ema.attach(engine)
    drawn = torch.get_rng_state().clone(), engine.data_loader.generator.get_state()
    engine.run([0], max_epochs=1)

    # What was drawn for the refresh leaves no trace.
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert torch.equal(engine.data_loader.generator.get_state(), drawn[1])
    assert engine.objective.players["both"]["first"] is network
    assert all(torch.equal(value, trained[key]) for key, value in network.state_dict().items())
    after = ema.network.state_dict()
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved == {"1.running_mean", "1.running_var"}
    assert ema.network.training
    assert ema.network[1].momentum == 0.1

    engine.data_loader.generator.set_state(drawn[1])
    torch.set_rng_state(drawn[0])
    ema.network.eval()
    with torch.no_grad():
        batches = [
            ema.network[0](torch.stack([_Slices()[i]["condition"] for i in indices]))
            for indices in engine.data_loader.batch_sampler
        ]
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    variances = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    # Up to the noise of the training, which has no place here.
    torch.testing.assert_close(after["1.running_mean"], means, rtol=0.01, atol=0.01)
    torch.testing.assert_close(after["1.running_var"], variances, rtol=0.05, atol=0.01)


def test_a_network_without_batch_norm_is_not_run() -> None:
    def forward(_: Any) -> None:
        raise AssertionError

    refresh_batch_norm(nn.Conv2d(1, 1, 1), [{}], forward)


def test_refreshes_when_validation_is_due(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=5)
    ema = EMA(trainer.objective.players["generator"], refresh_batch_norm=2, refresh_interval=2)
    ema.attach(trainer)
    refreshed = []
    generate = trainer.objective.generate

    def watched(batch: Any) -> Any:
        if trainer.objective.players["generator"] is ema.network:
            refreshed.append(trainer.state.epoch)
        return generate(batch)

    trainer.objective.generate = watched
    trainer.run()
    assert refreshed == [2, 2, 4, 4, 5, 5]


def test_a_training_is_the_same_with_and_without_refreshes(make_trainer: Any) -> None:
    weights = []
    for batches in (0, 3):
        set_determinism(seed=0)
        trainer = make_trainer(max_epochs=2)
        EMA(trainer.objective.players["generator"], refresh_batch_norm=batches).attach(trainer)
        trainer.run()
        weights.append([p.detach().clone() for p in trainer.objective.players["generator"].state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_averaged_weights_are_still_spectrally_normalised(buffers: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(spectral_norm(nn.Conv2d(3, 6, 3)), spectral_norm(nn.Conv2d(6, 4, 3)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    ema = EMA(network, decay=0.99, buffers=buffers)
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, 4, 4, 4)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x), y).backward()
        optimizer.step()
        ema.update(_engine())
    ema.network.eval()
    for layer in ema.network:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert float(largest) == pytest.approx(1, abs=0.03)

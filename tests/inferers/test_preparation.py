"""A network that is prepared for inference gives the same images."""

import copy
from typing import Any

import pytest
import torch
from monai.networks.utils import eval_mode
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.inferers import PreparedNetwork, VolumeInferer, prepare_for_inference
from monai_synth.networks import OASISGenerator, UNetGenerator, build, list_generators
from tests.networks.tiny_networks import TINY


def _build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = build(name, in_channels=2, **TINY[name], **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)  # outputs away from zero
        for size in (64, 64):  # running statistics and singular vectors that were trained
            network.train()(torch.rand(2, 2, size, size))
    return network


def _run(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        out: torch.Tensor = network(x)
    return out


@pytest.mark.parametrize("name", list_generators())
def test_every_generator_gives_its_image(name: str) -> None:
    network = _build(name)
    kept = copy.deepcopy(network.state_dict())
    x = torch.rand(2, 2, 64, 64)
    exact = _run(copy.deepcopy(network).eval(), x)
    prepared, rounded = prepare_for_inference(network), prepare_for_inference(network, precision="bf16")
    assert network.training
    assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items())
    torch.testing.assert_close(_run(prepared, x), exact, atol=1e-5, rtol=0)
    image = _run(rounded, x)
    assert image.dtype is torch.float32
    error = (image - exact).abs().mean()
    assert 0 < error < 0.02 * exact.std() + 0.005, error


def test_volumes_of_a_3d_network() -> None:
    network = _build_3d()
    x = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(_run(prepare_for_inference(network), x), _run(network, x), atol=1e-5, rtol=0)


def _build_3d() -> nn.Module:
    torch.manual_seed(0)
    return UNetGenerator(spatial_dims=3, channels=2, num_downs=2).eval()


def test_an_inferer_finds_what_it_asks_for_and_noise_is_passed_on() -> None:
    torch.manual_seed(0)
    network = OASISGenerator(in_channels=3, channels=2, noise_channels=4, hidden_channels=4).eval()
    prepared = prepare_for_inference(network)
    assert (prepared.stride, prepared.noise_channels, prepared.in_channels) == (32, 4, 3)
    volume, noise = torch.rand(1, 3, 30, 40, 2), torch.randn(1, 4)
    with torch.no_grad():
        images = [VolumeInferer(axis=2)(volume, each, noise=noise) for each in (network, prepared)]
        torch.testing.assert_close(*images, atol=1e-5, rtol=0)
        assert not torch.equal(VolumeInferer(axis=2)(volume, prepared), images[1])


def test_it_stays_in_evaluation_mode() -> None:
    prepared = prepare_for_inference(_build("pix2pix_unet"))
    with eval_mode(prepared):
        pass
    assert isinstance(prepared, PreparedNetwork)
    assert not prepared.training
    assert not any(p.requires_grad for p in prepared.parameters())
    with pytest.raises(ConfigError, match="cannot be trained"):
        prepared.train()


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="'fp16' is unknown for inference"):
        prepare_for_inference(_build_3d(), precision="fp16")


def test_where_nothing_can_be_compiled_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ConfigError, match="torch.compile does not work here for cpu: no compiler found"):
        prepare_for_inference(_build_3d(), compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_it_gives_the_same_image(precision: str) -> None:
    network = _build("pix2pix_unet")
    x = torch.rand(1, 2, 32, 32)
    eager, compiled = (prepare_for_inference(network, precision=precision, compile=way) for way in (False, True))
    atol = 1e-5 if precision == "fp32" else 0.05
    torch.testing.assert_close(_run(compiled, x), _run(eager, x), atol=atol, rtol=0)

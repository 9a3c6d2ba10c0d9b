import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import NORMS, build_norm, check_spatial_dims, has_conv_bias, init_weights


def test_start_values_are_those_of_pix2pix():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 64, 4), nn.ConvTranspose3d(32, 32, 4), nn.BatchNorm2d(4000))
    init_weights(module)
    for layer in module[:2]:
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=1e-3)
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    assert float(module[2].weight.detach().mean()) == pytest.approx(1, abs=2e-3)
    assert float(module[2].weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not module[2].bias.any()


@pytest.mark.parametrize("init_type", ["xavier", "kaiming", "orthogonal"])
def test_other_start_values_are_zero_mean_and_differ_from_normal(init_type):
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 3)
    init_weights(layer, init_type, 1.0)
    expected_std = {
        "xavier": (2 / (2 * 16 * 9)) ** 0.5,
        "kaiming": (2 / (16 * 9)) ** 0.5,
        "orthogonal": (1 / 144) ** 0.5,
    }
    assert float(layer.weight.detach().std()) == pytest.approx(expected_std[init_type], rel=0.05)
    assert not layer.bias.any()


def test_unknown_choices_are_refused():
    with pytest.raises(ConfigError, match="uniform"):
        init_weights(nn.Conv2d(1, 1, 1), "uniform")
    with pytest.raises(ConfigError, match="layer"):
        build_norm("layer", spatial_dims=2, channels=4)
    with pytest.raises(ConfigError, match="spatial_dims=4"):
        check_spatial_dims(4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_norms_have_the_parameters_of_pix2pix(spatial_dims):
    counts = {n: len(build_norm(n, spatial_dims=spatial_dims, channels=12).state_dict()) for n in NORMS}
    assert counts == {"batch": 5, "instance": 0, "group": 2, "none": 0}
    assert [norm for norm in NORMS if has_conv_bias(norm)] == ["instance"]


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (12, 4), (7, 1)])
def test_group_norm_takes_a_number_of_groups_that_divides_the_channels(channels, groups):
    assert build_norm("group", spatial_dims=2, channels=channels).num_groups == groups

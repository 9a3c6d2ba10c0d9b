import json

import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import ResidualWaveletGenerator, WaveletGenerator

NOISE = {"usis_G_residual_wavelet": 4, "mis_G_wavelet1": 2}
CLASSES = {"usis_G_residual_wavelet": ResidualWaveletGenerator, "mis_G_wavelet1": WaveletGenerator}


def make(network_class=ResidualWaveletGenerator, **options):
    torch.manual_seed(0)
    tiny = {"in_channels": 2, "out_channels": 1, "channels": 1, "num_blocks": 3, "noise_channels": 3}
    return network_class(**{**tiny, "hidden_channels": 4, "init_gain": 1.0, **options}).eval()


# Without the hint the width of the noise is guessed: explicit noise of any width that adds up is taken.
@pytest.mark.parametrize("has_hint", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", NOISE)
def test_equals_the_official_network(golden_case, name, mode, has_hint):
    case = golden_case(name)
    differences = case.check(mode, **({"noise_channels": NOISE[name]} if has_hint else {}))
    assert isinstance(case.imported.network, CLASSES[name])
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_parameter_counts_are_the_published_ones(shared_dir):
    """The published file also has the norms of the shortcuts, which it never uses."""
    file = shared_dir / "golden" / "keys_usis.json"
    entry = json.loads(file.read_text())["networks"]["G_residual_wavelet_ch16(35,z64)"]
    unused = sum(
        torch.Size(shape).numel() for key, shape, _, kind in entry["keys"] if ".norm_s." in key and kind == "param"
    )
    for num_labels, published in ((35, 55_720_940), (38, 55_803_884)):
        # Four unused norms see the labels.
        unused_here = unused + 4 * (num_labels - 35) * 128 * 9
        with torch.device("meta"):
            network = ResidualWaveletGenerator(in_channels=num_labels, out_channels=3)
        assert sum(p.numel() for p in network.parameters()) + unused_here == published


@pytest.mark.parametrize("network_class", CLASSES.values())
def test_published_widths_halve_towards_the_image(network_class):
    with torch.device("meta"):
        network = network_class(in_channels=35, out_channels=3)
    assert network.stride == 64
    widths = [block.conv_1.weight.shape[0] for block in network.blocks]
    assert widths == [16 * multiple for multiple in (64, 64, 32, 16, 8, 4)]
    assert [block.conv_s is not None for block in network.blocks] == [False, False, True, True, True, True]
    assert network.stem.in_channels == 64 + 35
    assert network.head.out_channels == 4 * 3


@pytest.mark.parametrize("network_class", CLASSES.values())
def test_noise_may_differ_from_place_to_place(network_class):
    network = make(network_class)
    condition, noise = torch.randn(2, 2, 16, 24), torch.randn(2, 3)
    everywhere = noise[:, :, None, None].expand(-1, -1, 16, 24)
    assert torch.equal(network(condition, noise), network(condition, everywhere))
    torch.manual_seed(3)
    drawn = network(condition)
    torch.manual_seed(3)
    assert torch.equal(drawn, network(condition, torch.randn(2, 3)))


@pytest.mark.parametrize("network_class", CLASSES.values())
def test_the_image_may_have_any_high_frequency(network_class):
    network = make(network_class)
    # Labels in columns of one pixel: the first band alone would blur pairs of neighbours.
    condition = torch.zeros(1, 2, 16, 16)
    condition[:, 0, :, ::2] = 1
    condition[:, 1, :, 1::2] = 1
    out = network(condition, torch.zeros(1, 3))
    assert float((out[..., ::2] - out[..., 1::2]).abs().max()) > 1e-3


def test_state_dict_keys_are_readable():
    keys = make(use_spectral_norm=False).state_dict()
    assert {"stem.weight", "blocks.0.norm_0.norm.running_mean", "blocks.2.conv_s.weight", "head.bias"} <= keys.keys()
    # The norm of the shortcut, which the published file has and never uses, is not built.
    assert not any("norm_s" in key for key in keys)
    assert any("norm_s" in key for key in make(WaveletGenerator).state_dict())


@pytest.mark.parametrize(
    ("condition", "noise", "error", "message"),
    [
        ((1, 2, 16, 20), None, GeometryError, r"\[16, 20\].*multiple of 8"),
        ((1, 4, 16, 16), None, ConfigError, r"condition has 4 channels.*takes 2.*One-hot"),
        ((1, 2, 16, 16), (1, 4), ConfigError, r"noise has 4 channels and the condition 2.*takes 3 \+ 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(condition, noise, error, message):
    with pytest.raises(error, match=message):
        make()(torch.zeros(condition), None if noise is None else torch.zeros(noise))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims=1"),
        ({"spatial_dims": 3}, "channels=1 does not fit.*8 bands of a 3D image.*even"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"noise_channels": -1}, "noise_channels=-1"),
        ({"kernel_size": 4}, "kernel_size=4"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)

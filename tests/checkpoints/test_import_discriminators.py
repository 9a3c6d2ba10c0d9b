"""Files of the discriminators of pix2pixHD, SPADE and CUT, of CUT's patch sampler and of the LGG U-Net."""

import json
import re

import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_checkpoint
from monai_synth.checkpoints.importers import FAMILIES
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks import LGGUNet, MultiScaleDiscriminator, PatchDiscriminator, PatchSampler, fold_spectral_norm
from tests.networks.test_lgg_unet import make_official_state

PUBLISHED = [
    ("keys_pix2pixHD", "D_num2_feat(39)", "pix2pixhd_multiscale"),
    ("keys_pix2pixHD", "D_num3_feat(39)", "pix2pixhd_multiscale"),
    ("keys_pix2pixHD", "D_num2_nofeat(39)", "pix2pixhd_multiscale"),
    ("keys_spade", "D_ade20k", "spade_multiscale"),
    ("keys_spade", "D_cityscapes", "spade_multiscale"),
    ("keys_cut", "D_basic_antialias", "cut_patchgan"),
    ("keys_cut", "F_mlp_sample_nc256(layers 0,4,8,12,16)", "cut_patch_sampler"),
]
BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def load(state, folder, **hints):
    torch.save(state, folder / "latest_net_D.pth")
    return import_checkpoint(folder / "latest_net_D.pth", **hints)


def read_golden(shared_dir, name):
    golden = np.load(shared_dir / "golden" / f"{name}.npz")
    state = {
        key.removeprefix("sd/"): torch.from_numpy(golden[key]).reshape(
            () if key.endswith("tracked") else golden[key].shape
        )
        for key in golden.files
        if key.startswith("sd/")
    }
    return state, torch.from_numpy(golden["in/x"])


def find_families(state):
    return [family.name for family in FAMILIES if family.recognise(state)]


def flat(out):
    return [tensor for layers in out for tensor in layers]


# What the code bases would call the layers of our networks.


def as_pix2pixhd(network):
    last = len(network.scales) - 1
    head = len(network.scales[0].layers)

    def rename(key):
        _, scale, *rest = key.split(".")
        scale = last - int(scale)
        if rest[0] == "head":
            return f"scale{scale}_layer{head}.0.{rest[1]}"
        return f"scale{scale}_layer{rest[1]}.{'01'[rest[2] == 'norm']}.{rest[3]}"

    return {rename(key): value for key, value in network.state_dict().items()}


def as_medical(state):
    """The layout of pix2pixhd-medical from that of pix2pixHD: full resolution comes first."""
    last = max(int(key[len("scale")]) for key in state)
    return {
        re.sub(r"scale(\d)_layer", lambda match: f"scale{last - int(match[1])}.model", key): value
        for key, value in state.items()
    }


def as_spade(network):
    """SPADE nests a convolution that has a norm behind it, and names the spectral norm as torch did."""
    spectral = {"original": "weight_orig", "_u": "weight_u", "_v": "weight_v"}
    is_nested = any("norm" in key for key in network.state_dict()) or network.scales[0].layers[1].conv.bias is None
    head = len(network.scales[0].layers)

    def rename(key):
        _, scale, *rest = key.split(".")
        if rest[0] == "head":
            return f"discriminator_{scale}.model{head}.0.{rest[1]}"
        entry = spectral.get(rest[-1], rest[-1])
        layer = f"discriminator_{scale}.model{rest[1]}.0"
        if rest[1] == "0" or not is_nested:
            return f"{layer}.{entry}"
        return f"{layer}.{'01'[rest[2] == 'norm']}.{entry}"

    return {rename(key): value for key, value in network.state_dict().items()}


def as_cut(network):
    blur = BLUR if network.layers[0].conv.weight.ndim == 4 else BLUR[:, :, None] * torch.tensor([1.0, 2.0, 1.0]) / 4
    num_layers = network.num_layers

    def rename(key):
        kind, *rest = key.split(".")
        if kind == "head":
            return f"model.{4 * num_layers + 2}.{rest[0]}"
        layer = int(rest[0])
        return f"model.{max(4 * layer - 1, 0) + (rest[1] == 'norm')}.{rest[2]}"

    state = {rename(key): value for key, value in network.state_dict().items()}
    for i in range(num_layers):
        width = network.layers[i].conv.out_channels
        state[f"model.{4 * i + 2}.filt"] = blur.expand(width, 1, *blur.shape).clone()
    return state


@pytest.mark.parametrize(("file", "name", "family"), PUBLISHED)
def test_every_published_key_finds_its_place(shared_dir, tmp_path, file, name, family):
    entry = json.loads((shared_dir / "golden" / f"{file}.json").read_text())["networks"][name]
    state = {
        key: BLUR.expand(shape).clone() if key.endswith("filt") else torch.zeros(shape)
        for key, shape, _, _ in entry["keys"]
    }
    assert find_families(state) == [family]
    found = load(state, tmp_path)
    assert found.family == family
    assert sum(p.numel() for p in found.network.parameters()) == entry["n_params"]
    assert {*found.report.used, *found.report.dropped} == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())
    assert all(key.endswith("filt") and "constant" in reason for key, reason in found.report.dropped.items())
    json.dumps(found.network_def)


@pytest.mark.parametrize("name", ["p2phd_D3_feat_instance", "p2phd_D2_feat_instance"])
def test_the_layout_of_pix2pixhd_medical_counts_the_scales_the_other_way(shared_dir, tmp_path, name):
    state, x = read_golden(shared_dir, name)
    nvidia, medical = load(state, tmp_path), load(as_medical(state), tmp_path)
    assert medical.family == "pix2pixhd_multiscale"
    assert medical.network_def == nvidia.network_def
    with torch.no_grad():
        for a, b in zip(flat(nvidia.network(x)), flat(medical.network(x)), strict=True):
            assert torch.equal(a, b)


OPTIONS = [
    {},
    {"norm": "batch", "num_scales": 3},
    {"channels": 4, "max_channels": 9, "num_layers": 2},
    {"spatial_dims": 3, "num_scales": 1, "num_layers": 1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", [as_pix2pixhd, lambda network: as_medical(as_pix2pixhd(network))])
def test_options_of_pix2pixhd_follow_from_the_file(tmp_path, layout, options):
    check_round_trip(MultiScaleDiscriminator(**{"in_channels": 2, "channels": 3, **options}), layout, tmp_path)


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"norm": "none"}, {"use_spectral_norm": False, "conv_bias": False, "norm": "batch"}]
)
def test_options_of_spade_follow_from_the_file(tmp_path, options):
    options = {
        "in_channels": 2,
        "channels": 3,
        "use_spectral_norm": True,
        "conv_bias": options.get("norm") == "none",
        **options,
    }
    check_round_trip(MultiScaleDiscriminator(**options), as_spade, tmp_path)


@pytest.mark.parametrize(
    "options", [{}, {"norm": "batch", "num_layers": 2}, {"norm": "none"}, {"spatial_dims": 3, "num_layers": 1}]
)
def test_options_of_cut_follow_from_the_file(tmp_path, options):
    options = {"in_channels": 2, "channels": 3, "norm": "instance", "antialias": True, **options}
    check_round_trip(PatchDiscriminator(**options), as_cut, tmp_path)


def check_round_trip(network, layout, folder):
    sizes = (24, 31, 26)[: next(network.parameters()).ndim - 2]
    network(torch.randn(2, 2, *sizes))  # move the buffers
    state = layout(network)
    assert len(find_families(state)) == 1
    found = load(state, folder)
    x = torch.randn(1, 2, *sizes)
    with torch.no_grad():
        for a, b in zip(flat(network.eval()(x)), flat(found.network(x)), strict=True):
            assert torch.equal(a, b)
    assert set(found.network.state_dict()) == set(network.state_dict())


def test_a_sigmoid_leaves_no_trace_and_is_a_hint(shared_dir, tmp_path):
    state, x = read_golden(shared_dir, "p2phd_D2_nofeat_sigmoid_batch")
    logits, probabilities = load(state, tmp_path), load(state, tmp_path, use_sigmoid=True)
    assert "check use_sigmoid=False: A sigmoid at the end leaves no trace" in str(logits.report)
    assert "use_sigmoid=True, as given" in str(probabilities.report)
    assert logits.network_def["use_sigmoid"] is False
    assert probabilities.network_def["use_sigmoid"] is True
    with torch.no_grad():
        for a, b in zip(logits.network(x), probabilities.network(x), strict=True):
            assert torch.equal(a[-1].sigmoid(), b[-1])


def test_a_hint_of_no_argument_is_refused(tmp_path):
    state = as_pix2pixhd(MultiScaleDiscriminator(in_channels=2, channels=3))
    with pytest.raises(ConfigError, match="no argument num_D"):
        load(state, tmp_path, num_D=3)


def test_statistics_of_an_old_instance_norm_are_dropped_with_the_reason(tmp_path):
    state = as_pix2pixhd(MultiScaleDiscriminator(in_channels=2, channels=3))
    old = {f"scale0_layer1.1.{entry}": torch.zeros(6) for entry in ("running_mean", "running_var")}
    found = load({**state, **old}, tmp_path)
    assert found.network_def["norm"] == "instance"
    assert set(found.report.dropped) == set(old)


def test_spectral_norm_of_torch_04_is_read(tmp_path):
    network = MultiScaleDiscriminator(in_channels=2, channels=3, use_spectral_norm=True, conv_bias=False).eval()
    folded = fold_spectral_norm(network)
    state = {key: value for key, value in as_spade(network).items() if not key.endswith("weight_v")}
    for scale, layer in ((s, j) for s in (0, 1) for j in (1, 2, 3)):
        weight = folded.state_dict()[f"scales.{scale}.layers.{layer}.conv.weight"]
        state[f"discriminator_{scale}.model{layer}.0.0.weight"] = weight
    found = load(state, tmp_path)
    assert found.family == "spade_multiscale"
    assert len(found.report.computed) == len(found.report.dropped) == 6
    x = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        for a, b in zip(flat(network(x)), flat(found.network(x)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_folded_network_has_plain_weights(tmp_path):
    network = MultiScaleDiscriminator(in_channels=2, channels=3, use_spectral_norm=True, conv_bias=False).eval()
    found = load(as_spade(network), tmp_path, fold_spectral_norm=True)
    assert found.network_def["use_spectral_norm"] is False
    twin = MultiScaleDiscriminator(**{key: value for key, value in found.network_def.items() if key != "_target_"})
    twin.load_state_dict(found.network.state_dict(), strict=True)


def test_discriminators_with_and_without_antialiasing_are_told_apart():
    network = PatchDiscriminator(in_channels=3, channels=2, norm="instance", antialias=True)
    smooth = as_cut(network)
    assert find_families(smooth) == ["cut_patchgan"]
    index = {0: 0, 3: 2, 7: 5, 11: 8, 14: 11}
    plain = {
        f"model.{index[int(key.split('.')[1])]}.{key.split('.')[2]}": value
        for key, value in smooth.items()
        if not key.endswith("filt")
    }
    assert find_families(plain) == ["patchgan"]


def test_another_blur_is_refused(tmp_path):
    state = as_cut(PatchDiscriminator(in_channels=3, channels=2, antialias=True))
    with pytest.raises(CheckpointError, match=r"model\.6\.filt is not the blur \[1, 2, 1\]"):
        load({**state, "model.6.filt": torch.full((4, 1, 3, 3), 1 / 9)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.2\.filt is not the blur \[1, 2, 1\]"):
        load({**state, "model.2.filt": torch.ones(2, 1, 4, 4) / 16}, tmp_path)


def test_the_patch_sampler_reads_its_widths_from_the_file(tmp_path):
    twin = PatchSampler(in_channels=[1, 4, 2], out_channels=5)
    state = {key.replace("mlps.", "mlp_"): value for key, value in twin.state_dict().items()}
    found = load(state, tmp_path)
    assert found.family == "cut_patch_sampler"
    assert found.network_def["in_channels"] == [1, 4, 2]
    assert found.network_def["out_channels"] == 5
    assert isinstance(found.network, PatchSampler)


@pytest.mark.parametrize(
    "options", [{}, {"in_channels": 1, "out_channels": 4, "channels": 3, "num_downs": 2}, {"spatial_dims": 3}]
)
def test_the_lgg_unet_reads_its_shape_from_the_file(tmp_path, options):
    options = {"channels": 2, **options} if options else {}
    state = make_official_state(**options)
    assert find_families(state) == ["lgg_unet"]
    found = load(state, tmp_path)
    assert isinstance(found.network, LGGUNet)
    assert set(found.report.used) == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())
    expected = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "channels": 32, "num_downs": 4, **options}
    assert {key: found.network_def[key] for key in expected} == expected
    assert "check use_sigmoid=True" in str(found.report)
    assert not load(state, tmp_path, use_sigmoid=False).network_def["use_sigmoid"]


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        (as_pix2pixhd(MultiScaleDiscriminator(in_channels=2, channels=3)), "scale1_layer4.0.bias"),
        (as_pix2pixhd(MultiScaleDiscriminator(in_channels=2, channels=3)), "scale0_layer3.0.weight"),
        (as_cut(PatchDiscriminator(in_channels=3, channels=2, antialias=True)), "model.10.filt"),
        (as_cut(PatchDiscriminator(in_channels=3, channels=2, antialias=True)), "model.14.weight"),
        (make_official_state(channels=2), "decoder2.dec2conv1.weight"),
        (make_official_state(channels=2), "encoder3.enc3conv1.weight"),
    ],
)
def test_an_incomplete_or_modified_file_is_refused(tmp_path, state, missing):
    with pytest.raises(CheckpointError, match="latest_net_D.pth"):
        load({key: value for key, value in state.items() if key != missing}, tmp_path)
    with pytest.raises(CheckpointError, match=r"latest_net_D.pth.*(no known family|no place there)"):
        load({**state, "more.weight": torch.zeros(3)}, tmp_path)

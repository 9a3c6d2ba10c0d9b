import json

import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_checkpoint
from monai_synth.checkpoints.importers import FAMILIES
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks.equalized import Blur

KEYS = {
    "usis_wavelet": ("keys_usis.json", "G_residual_wavelet_ch16(35,z64)"),
    "wavelet_discriminator": ("keys_medical_images_synthesis.json", "Du_wavelet_256"),
}
FIXTURES = {
    "usis_wavelet": "usis_G_residual_wavelet",
    "wavelet_generator": "mis_G_wavelet1",
    "wavelet_discriminator": "mis_D_wavelet64",
}
LOW = torch.full((2, 2), 0.5)
ROWS = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
COLUMNS = ROWS.t()
BOTH = torch.tensor([[0.5, -0.5], [-0.5, 0.5]])


def published_state(shared_dir, family):
    """Zeros of the published shapes, with the published constants; and the entry itself."""
    file, name = KEYS[family]
    entry = json.loads((shared_dir / "golden" / file).read_text())["networks"][name]
    blur = Blur(spatial_dims=2, channels=1, padding=1).kernel[0, 0]
    state = {}
    for key, shape, dtype, _ in entry["keys"]:
        layer, _, last = key.rpartition(".")
        sign = -1 if layer.endswith("iwt") else 1
        constants = {"ll": LOW, "lh": sign * ROWS, "hl": sign * COLUMNS, "hh": BOTH, "kernel": blur}
        state[key] = constants.get(last, torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch."))))
        assert list(state[key].shape) == shape
    return state, entry


def golden_state(shared_dir, family):
    values = np.load(shared_dir / "golden" / f"{FIXTURES[family]}.npz")
    return {
        key.removeprefix("sd/"): torch.from_numpy(values[key]).reshape(
            () if key.endswith("tracked") else values[key].shape
        )
        for key in values.files
        if key.startswith("sd/")
    }


@pytest.mark.parametrize("family", KEYS)
def test_every_published_key_finds_its_place(shared_dir, tmp_path, family):
    state, entry = published_state(shared_dir, family)
    torch.save(state, tmp_path / "net.pth")
    found = import_checkpoint(tmp_path / "net.pth")
    assert found.family == family
    assert {*found.report.used, *found.report.dropped} == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())
    # What is dropped is constant, or belongs to the norms of the shortcuts, which are never used.
    unused = {key for key in found.report.dropped if ".norm_s." in key}
    kinds = {key: kind for key, _, _, kind in entry["keys"]}
    assert all(kinds[key] == "buffer" for key in found.report.dropped if key not in unused)
    num_parameters = sum(p.numel() for p in found.network.parameters())
    dropped = sum(state[key].numel() for key in unused if kinds[key] == "param")
    assert num_parameters + dropped == entry["n_params"]


def test_the_published_generator_has_its_published_arguments(shared_dir, tmp_path):
    torch.save(published_state(shared_dir, "usis_wavelet")[0], tmp_path / "latest_EMA.pth")
    found = import_checkpoint(tmp_path / "latest_EMA.pth")
    assert found.network_def == {
        "_target_": "monai_synth.networks.wavelet_generator.ResidualWaveletGenerator",
        "spatial_dims": 2,
        "in_channels": 35,
        "out_channels": 3,
        "channels": 16,
        "num_blocks": 6,
        "noise_channels": 64,
        "hidden_channels": 128,
        "kernel_size": 3,
        "norm": "batch",
        "use_spectral_norm": True,
    }
    assert found.report.dropped["body.2.norm_s.mlp_gamma.weight"] == (
        "present in the file, never used in the forward pass"
    )
    assert "check noise_channels=64" in str(found.report)


def test_the_published_discriminator_has_its_published_arguments(shared_dir, tmp_path):
    torch.save(published_state(shared_dir, "wavelet_discriminator")[0], tmp_path / "latest_Du.pth")
    found = import_checkpoint(tmp_path / "latest_Du.pth")
    assert found.network_def == {
        "_target_": "monai_synth.networks.wavelet_discriminator.WaveletDiscriminator",
        "spatial_dims": 2,
        "in_channels": 3,
        "image_size": [256, 256],
        "channels": 128,
        "max_channels": 512,
    }


def test_a_wide_discriminator_is_that_of_cityscapes(shared_dir, tmp_path):
    """256 x 512: one block more, a first width of 64, and a last map of 2 x 4."""
    state, _ = published_state(shared_dir, "wavelet_discriminator")
    state["from_rgbs.0.conv.0.weight"] = torch.zeros(64, 12, 1, 1)
    state["from_rgbs.0.conv.1.bias"] = torch.zeros(1, 64, 1, 1)
    state["from_rgbs.1.conv.0.weight"] = torch.zeros(256, 12, 1, 1)
    state["from_rgbs.1.conv.1.bias"] = torch.zeros(1, 256, 1, 1)
    state["final_linear.0.weight"] = torch.zeros(512, 512 * 4 * 2)
    for key in [key for key in state if key.startswith(("from_rgbs.5.", "convs.4."))]:
        state[key.replace("rgbs.5", "rgbs.6").replace("convs.4", "convs.5")] = state[key]
    for part, shape in (("conv1.0.weight", (64, 64, 3, 3)), ("conv1.1.bias", (1, 64, 1, 1))):
        state[f"convs.0.{part}"] = torch.zeros(shape)
    state["convs.0.conv2.1.weight"] = torch.zeros(256, 64, 3, 3)
    state["convs.0.conv2.2.bias"] = torch.zeros(1, 256, 1, 1)
    for part, shape in (("conv1.0.weight", (256, 256, 3, 3)), ("conv1.1.bias", (1, 256, 1, 1))):
        state[f"convs.1.{part}"] = torch.zeros(shape)
    state["convs.1.conv2.1.weight"] = torch.zeros(512, 256, 3, 3)
    torch.save(state, tmp_path / "best_Du.pth")
    found = import_checkpoint(tmp_path / "best_Du.pth")
    assert found.network_def["image_size"] == [256, 512]
    assert found.network_def["channels"] == 64
    assert "twice as wide as high" in str(found.report)
    assert import_checkpoint(tmp_path / "best_Du.pth", image_size=[512, 256]).network.image_size == [512, 256]
    with pytest.raises(CheckpointError, match=r"does not fit"):
        import_checkpoint(tmp_path / "best_Du.pth", image_size=[512, 512])


def test_a_last_map_of_odd_shape_needs_a_hint(shared_dir, tmp_path):
    state = golden_state(shared_dir, "wavelet_discriminator")
    state["final_linear.0.weight"] = torch.zeros(8, 8 * 3 * 5)
    torch.save(state, tmp_path / "best_Du.pth")
    with pytest.raises(CheckpointError, match=r"15 positions.*image_size=\[height,width\]"):
        import_checkpoint(tmp_path / "best_Du.pth")
    found = import_checkpoint(tmp_path / "best_Du.pth", image_size=(48, 80))
    assert found.network(torch.zeros(1, 3, 48, 80))[0][-1].shape == (1, 1)


@pytest.mark.parametrize("family", FIXTURES)
def test_each_file_is_of_one_family(shared_dir, family):
    state = golden_state(shared_dir, family)
    assert [found.name for found in FAMILIES if found.recognise(state)] == [family]


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("usis_wavelet", "iwt.lh"),
        ("usis_wavelet", "body.5.norm_1.hwt.hl"),
        ("wavelet_generator", "conv_img.upsample.kernel"),
        ("wavelet_discriminator", "dwt.hh"),
        ("wavelet_discriminator", "from_rgbs.1.downsample.kernel"),
        ("wavelet_discriminator", "convs.2.conv2.0.kernel"),
    ],
)
def test_other_constants_are_refused(shared_dir, tmp_path, family, key):
    state = golden_state(shared_dir, family)
    for wrong in (-state[key], torch.zeros(3, 3)):
        torch.save({**state, key: wrong}, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match=rf"{key} is not the kernel.*modified network"):
            import_checkpoint(tmp_path / "net.pth")


def test_the_noise_is_told_or_guessed(shared_dir, tmp_path):
    torch.save(golden_state(shared_dir, "wavelet_generator"), tmp_path / "latest_G.pth")
    found = import_checkpoint(tmp_path / "latest_G.pth", noise_channels=2)
    assert (found.network_def["in_channels"], found.network_def["noise_channels"]) == (2, 2)
    guessed = import_checkpoint(tmp_path / "latest_G.pth")
    assert (guessed.network_def["in_channels"], guessed.network_def["noise_channels"]) == (4, 0)
    condition, noise = torch.randn(1, 2, 64, 64), torch.randn(1, 2)
    with torch.no_grad():
        assert torch.equal(found.network(condition, noise), guessed.network(condition, noise))
    with pytest.raises(ConfigError, match="together they must be 4"):
        import_checkpoint(tmp_path / "latest_G.pth", noise_channels=4)


@pytest.mark.parametrize("family", ["usis_wavelet", "wavelet_generator"])
def test_depth_norm_and_plain_weights_follow_from_the_keys(shared_dir, tmp_path, family):
    """The first two blocks and the last, without spectral norm and running statistics."""
    state = {}
    for key, value in golden_state(shared_dir, family).items():
        is_left_out = "first_norm" in key or key.endswith(("weight_u", "weight_v"))
        if is_left_out or key.startswith(("body.0", "body.1")):
            continue
        for i in range(4):
            key = key.replace(f"body.{i + 2}.", f"body.{i}.")
        state[key.replace("weight_orig", "weight")] = value
    # Four blocks start with 32 channels and so do not learn the shortcut of the first.
    state = {key: value for key, value in state.items() if not key.startswith(("body.0.conv_s", "body.0.norm_s"))}
    state = {key: value[:32] if key.startswith("fc.") else value for key, value in state.items()}
    norm_width = 8 if family == "usis_wavelet" else 32
    for part in ("mlp_gamma", "mlp_beta"):
        for entry in ("weight", "bias"):
            key = f"body.0.norm_0.{part}.{entry}"
            state[key] = state[key][:norm_width]
    state["body.0.conv_0.weight"] = state["body.0.conv_0.weight"][:, :32]
    torch.save(state, tmp_path / "latest_G.pth")
    found = import_checkpoint(tmp_path / "latest_G.pth")
    assert found.network_def["num_blocks"] == 4
    assert found.network_def["norm"] == "instance"
    assert found.network_def["use_spectral_norm"] is False
    out = found.network(torch.randn(1, found.network_def["in_channels"], 32, 48))
    assert out.shape == (1, 3, 32, 48)


def test_an_incomplete_file_is_refused(shared_dir, tmp_path):
    state = golden_state(shared_dir, "usis_wavelet")
    torch.save({key: value for key, value in state.items() if key != "conv_img.conv.weight"}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"looks like usis_wavelet.*conv_img.conv.weight"):
        import_checkpoint(tmp_path / "less.pth")
    torch.save({**state, "body.6.conv_0.bias": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"looks like usis_wavelet, but 1 .*body\.6\.conv_0\.bias"):
        import_checkpoint(tmp_path / "more.pth")

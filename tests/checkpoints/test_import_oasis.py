import json
import re

import pytest
import torch

from monai_synth.checkpoints import import_checkpoint
from monai_synth.checkpoints.importers import FAMILIES
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks import OASISDiscriminator, OASISGenerator

PUBLISHED = [
    ("keys_oasis.json", "G_cityscapes(semantic 35, z64)"),
    ("keys_oasis.json", "G_ade20k(semantic 151)"),
    ("keys_oasis.json", "G_coco(semantic 183)"),
    ("keys_oasis.json", "D_cityscapes"),
    ("keys_oasis.json", "D_ade20k"),
    ("keys_oasis.json", "D_coco"),
    ("keys_medical_images_synthesis.json", "G_oasis_medicals(semantic 38, z64)"),
    ("keys_medical_images_synthesis.json", "D_oasis(=S, 38+1)"),
]
OFFICIAL_NAMES = [
    (r"^stem", "fc"),
    (r"^head", "conv_img"),
    (r"^blocks", "body"),
    (r"(norm_.)\.norm", r"\1.first_norm"),
    ("shared", "mlp_shared.0"),
    ("gamma|beta", r"mlp_\g<0>"),
    (r"parametrizations\.weight\.original", "weight_orig"),
    (r"parametrizations\.weight\.0\._", "weight_"),
]


def official_state(**options):
    """A generator of ours under the names of the published files."""
    torch.manual_seed(0)
    tiny = {"in_channels": 5, "channels": 1, "noise_channels": 6, "hidden_channels": 3}
    network = OASISGenerator(**{**tiny, **options}).eval()
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in OFFICIAL_NAMES:
            key = re.sub(ours, theirs, key)
        state[key] = value
    return network, state


def zeros(entry):
    return {
        key: torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        for key, shape, dtype, _ in entry["keys"]
    }


@pytest.mark.parametrize(("file", "name"), PUBLISHED)
def test_every_published_key_finds_its_place(shared_dir, tmp_path, file, name):
    entry = json.loads((shared_dir / "golden" / file).read_text())["networks"][name]
    state = zeros(entry)
    torch.save(state, tmp_path / "net.pth")
    found = import_checkpoint(tmp_path / "net.pth")
    assert isinstance(found.network, OASISGenerator if name.startswith("G_") else OASISDiscriminator)
    assert sum(p.numel() for p in found.network.parameters()) == entry["n_params"]
    assert set(found.report.used) == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())
    if name.startswith("G_"):
        assert found.network_def["noise_channels"] == 64
        assert f"semantic {found.network_def['in_channels']}" in name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "instance", "edge_channels": 2},
        {"use_spectral_norm": False, "kernel_size": 5, "out_channels": 1},
        {"noise_channels": 0},
        {"spatial_dims": 3, "hidden_channels": 2},
    ],
)
def test_every_option_follows_from_keys_and_shapes(tmp_path, options):
    network, state = official_state(**options)
    torch.save(state, tmp_path / "best_G.pth")
    found = import_checkpoint(tmp_path / "best_G.pth", noise_channels=network.noise_channels)
    assert found.family == "oasis"
    expected = {"in_channels": 5, "channels": 1, "noise_channels": 6, "hidden_channels": 3, **options}
    assert expected.items() <= found.network_def.items()
    condition, noise = torch.randn(2, 5, *[64] * (found.network_def["spatial_dims"])), torch.randn(2, 6)
    inputs = (condition, noise) if network.noise_channels else (condition,)
    with torch.no_grad():
        assert torch.equal(found.network(*inputs), network(*inputs))


def test_the_width_of_the_noise_is_guessed_and_said(tmp_path):
    network, state = official_state()
    torch.save(state, tmp_path / "latest_EMA.pth")
    found = import_checkpoint(tmp_path / "latest_EMA.pth")
    assert (found.network_def["in_channels"], found.network_def["noise_channels"]) == (11, 0)
    assert "check noise_channels=0: The file tells only the sum of noise and labels, 11 channels" in str(found.report)
    condition, noise = torch.randn(1, 5, 32, 32), torch.randn(1, 6)
    with torch.no_grad():
        assert torch.equal(found.network(condition, noise), network(condition, noise))
    with pytest.raises(ConfigError, match=r"condition has 5 channels.*noise_channels"):
        found.network(condition)


@pytest.mark.parametrize("hints", [{"noise_channels": 6}, {"in_channels": 5}, {"noise_channels": 6, "in_channels": 5}])
def test_a_hint_wins(tmp_path, hints):
    torch.save(official_state()[1], tmp_path / "latest_EMA.pth")
    found = import_checkpoint(tmp_path / "latest_EMA.pth", **hints)
    assert (found.network_def["in_channels"], found.network_def["noise_channels"]) == (5, 6)
    assert "as given" in str(found.report)
    assert not found.report.guesses


@pytest.mark.parametrize(
    "hints", [{"noise_channels": 11}, {"in_channels": 12}, {"noise_channels": 6, "in_channels": 4}]
)
def test_a_hint_that_does_not_add_up_is_refused(tmp_path, hints):
    torch.save(official_state()[1], tmp_path / "latest_EMA.pth")
    with pytest.raises(ConfigError, match="together they must be 11"):
        import_checkpoint(tmp_path / "latest_EMA.pth", **hints)


def test_averaged_singular_vectors_are_kept_and_noted(tmp_path):
    state = official_state()[1]
    state["body.0.conv_0.weight_u"] *= 0.9
    torch.save(state, tmp_path / "best_EMA.pth")
    found = import_checkpoint(tmp_path / "best_EMA.pth", noise_channels=6)
    kept = found.network.state_dict()["blocks.0.conv_0.parametrizations.weight.0._u"]
    assert torch.equal(kept, state["body.0.conv_0.weight_u"])
    assert "averaged like the weights" in str(found.report)


def test_folded_weights_give_the_same_image(tmp_path):
    network, state = official_state()
    torch.save(state, tmp_path / "best_EMA.pth")
    found = import_checkpoint(tmp_path / "best_EMA.pth", fold_spectral_norm=True, noise_channels=6)
    assert found.network_def["use_spectral_norm"] is False
    condition, noise = torch.randn(1, 5, 32, 32), torch.randn(1, 6)
    with torch.no_grad():
        assert torch.allclose(found.network(condition, noise), network(condition, noise), atol=1e-6)
    torch.jit.script(found.network)


def test_a_modified_network_is_refused(tmp_path):
    state = official_state()[1]
    torch.save({key: value for key, value in state.items() if not key.startswith("conv_img")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"looks like oasis.*conv_img.weight"):
        import_checkpoint(tmp_path / "a.pth")
    torch.save({**state, "body.6.conv_0.bias": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"looks like oasis, but 1 .*body\.6\.conv_0\.bias"):
        import_checkpoint(tmp_path / "b.pth")


def test_wavelet_networks_are_other_families(shared_dir):
    networks = json.loads((shared_dir / "golden" / "keys_usis.json").read_text())["networks"]
    state = zeros(networks["G_residual_wavelet_ch16(35,z64)"])
    assert not [family.name for family in FAMILIES if family.name.startswith("oasis") and family.recognise(state)]

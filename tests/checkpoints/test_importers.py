import json

import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_checkpoint, save_weights
from monai_synth.errors import CheckpointError
from monai_synth.networks import PatchDiscriminator, UNetGenerator

UNET_KEYS = ["unet_256_batch_3to3_dropout", "unet_256_instance_3to3_dropout", "unet_128_batch_3to3"]
D_KEYS = ["D_basic_batch_6", "D_basic_instance_3(CycleGAN)", "D_basic_instance_6", "D_pixel_batch_6"]


def official_state(golden_dir, name="p2p_unet5_batch"):
    golden = np.load(golden_dir / f"{name}.npz")
    return {
        key.removeprefix("sd/"): torch.from_numpy(golden[key]).reshape(
            () if key.endswith("tracked") else golden[key].shape
        )
        for key in golden.files
        if key.startswith("sd/")
    }


def without_batch_norm(state, *, conv_bias=True, statistics=False):
    """What the same network with instance norm would have left behind."""
    out = {}
    for key, value in state.items():
        layer, _, entry = key.rpartition(".")
        if f"{layer}.running_mean" not in state:
            out[key] = value
            if conv_bias and entry == "weight" and f"{layer}.bias" not in state:
                is_transposed = layer.endswith((".5", ".3"))
                out[f"{layer}.bias"] = torch.zeros(value.shape[1 if is_transposed else 0])
        elif statistics and entry in ("running_mean", "running_var"):
            out[key] = value
    return out


def test_an_old_file_without_batch_counts_gives_the_official_output(golden_dir):
    golden = np.load(golden_dir / "import_pix2pix_unet_batch_old.npz")
    config = json.loads(str(golden["config"]))
    found = import_checkpoint(golden_dir / config["file"])
    assert found.family == "pix2pix_unet"
    assert not found.network.training
    with torch.no_grad():
        np.testing.assert_allclose(found.network(torch.from_numpy(golden["in/x"])), golden["out/eval"], atol=1e-4)
    assert found.network_def == {
        "_target_": "monai_synth.networks.unet.UNetGenerator",
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 3,
        "channels": 3,
        "num_downs": 5,
        "norm": "batch",
        "dropout": 0.0,
    }
    assert len(found.report.filled) == 7
    assert all(key.endswith("num_batches_tracked") for key in found.report.filled)
    assert not found.report.dropped
    assert "Dropout leaves no trace" in str(found.report)


def test_statistics_of_an_old_instance_norm_are_dropped_with_the_reason(golden_dir, tmp_path):
    state = without_batch_norm(official_state(golden_dir), statistics=True)
    torch.save(state, tmp_path / "latest_net_G.pth", _use_new_zipfile_serialization=False)
    found = import_checkpoint(tmp_path / "latest_net_G.pth")
    assert found.network_def["norm"] == "instance"
    assert len(found.report.dropped) == 2 * 7
    assert all("torch 0.3" in reason for reason in found.report.dropped.values())
    assert set(found.report.used) | set(found.report.dropped) == set(state)
    assert "14 dropped" in str(found.report)


def test_a_network_without_norm_is_recognised(golden_dir, tmp_path):
    torch.save(without_batch_norm(official_state(golden_dir), conv_bias=False), tmp_path / "G.pth")
    assert import_checkpoint(tmp_path / "G.pth").network_def["norm"] == "none"


def test_the_pixel_discriminator_is_recognised(golden_dir, tmp_path):
    torch.save(official_state(golden_dir, "p2p_D_pixel_batch"), tmp_path / "latest_net_D.pth")
    found = import_checkpoint(tmp_path / "latest_net_D.pth")
    assert found.family == "pixel_discriminator"
    assert found.network_def["num_layers"] == 0


def test_the_network_def_builds_the_network_again(golden_dir, tmp_path):
    from monai.bundle import ConfigParser

    found = import_checkpoint(golden_dir / "import_pix2pix_unet_batch_old.pth")
    parser = ConfigParser(json.loads(json.dumps({"network_def": found.network_def})))
    twin = parser.get_parsed_content("network_def")
    twin.load_state_dict(found.network.state_dict(), strict=True)
    assert isinstance(twin, UNetGenerator)


@pytest.mark.parametrize("name", UNET_KEYS + D_KEYS)
def test_every_published_key_finds_its_place(shared_dir, tmp_path, name):
    entry = json.loads((shared_dir / "golden" / "keys_pix2pix.json").read_text())["networks"][name]
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        for key, shape, dtype, _ in entry["keys"]
    }
    torch.save(state, tmp_path / "net.pth")
    found = import_checkpoint(tmp_path / "net.pth")
    assert isinstance(found.network, UNetGenerator if name in UNET_KEYS else PatchDiscriminator)
    assert sum(p.numel() for p in found.network.parameters()) == entry["n_params"]
    assert set(found.report.used) == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())


def test_our_own_file_is_not_mistaken_for_a_published_one(tmp_path):
    file = save_weights(UNetGenerator(channels=2, num_downs=2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="no known family"):
        import_checkpoint(file)


def test_a_modified_network_is_refused(golden_dir, tmp_path):
    state = official_state(golden_dir)
    torch.save({**state, "model.extra.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"looks like pix2pix_unet, but 1 .*model\.extra\.weight"):
        import_checkpoint(tmp_path / "more.pth")
    torch.save({**state, "model.model.3.weight": torch.zeros(9, 3, 4, 4)}, tmp_path / "wider.pth")
    with pytest.raises(CheckpointError, match=r"wider.pth \(read as pix2pix_unet\) does not fit.*ups.4.conv.weight"):
        import_checkpoint(tmp_path / "wider.pth")
    incomplete = {key: value for key, value in state.items() if key != "model.model.3.bias"}
    torch.save(incomplete, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: ups.4.conv.bias"):
        import_checkpoint(tmp_path / "less.pth")

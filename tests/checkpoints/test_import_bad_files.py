"""Files that cannot be imported say why; folders give the right file."""

import argparse

import pytest
import torch

from monai_synth.checkpoints import import_checkpoint, load_network, write_imported
from monai_synth.checkpoints.importers import FAMILIES
from monai_synth.errors import CheckpointError, ConfigError

OLD_UNET = "import_pix2pix_unet_batch_old.pth"


@pytest.fixture
def unet_state(golden_dir):
    return torch.load(golden_dir / OLD_UNET, weights_only=True)


def refused(file, *words):
    with pytest.raises(CheckpointError) as raised:
        import_checkpoint(file)
    for word in (str(file), *words):
        assert word in str(raised.value), f"{word!r} is not in: {raised.value}"


def test_family_names_are_unique_and_described():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(".pt" in family.files for family in FAMILIES)


def test_an_unknown_file_lists_the_families(tmp_path):
    torch.save({"backbone.stem.weight": torch.zeros(3, 3)}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "no known family", "backbone.stem.weight", *(family.name for family in FAMILIES))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_truncated_file_gives_its_size(tmp_path, unet_state, share, is_zip):
    torch.save(unet_state, tmp_path / "whole.pth", _use_new_zipfile_serialization=is_zip)
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(share * len(content))])
    refused(tmp_path / "x.pth", "truncated", f"{int(share * len(content))} bytes")


def test_pickled_objects_are_refused_unread(tmp_path):
    torch.save({"opt": argparse.Namespace(lr=0.1)}, tmp_path / "opt.pkl")
    refused(tmp_path / "opt.pkl", "argparse.Namespace", "could run any code")


def test_two_networks_in_one_file_are_named(tmp_path, unet_state):
    both = {**unet_state, "encoder1.enc1conv1.weight": torch.zeros(32, 3, 3, 3)}
    torch.save(both, tmp_path / "both.pth")
    refused(tmp_path / "both.pth", "pix2pix_unet", "lgg_unet")


def test_a_training_checkpoint_of_several_networks_is_refused(tmp_path, unet_state):
    torch.save({"netG": unet_state, "netD": unet_state, "epoch": 3}, tmp_path / "all.pth")
    refused(tmp_path / "all.pth", "netG")


def test_shapes_of_no_published_layout_are_named(tmp_path, unet_state):
    state = {**unet_state, "model.model.1.model.1.weight": torch.zeros(7, 5, 4, 4)}
    torch.save(state, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "read as pix2pix_unet", "downs.1.conv.weight", "[7, 5, 4, 4]")


def test_weights_that_are_not_numbers_are_refused(tmp_path, unet_state):
    state = {key: value.clone() for key, value in unet_state.items()}
    state["model.model.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "1 of its entries", "NaN", "model.model.0.weight", "diverged")


def test_a_hint_that_is_no_argument_lists_the_arguments(golden_dir):
    with pytest.raises(ConfigError, match=r"no argument widths.*channels"):
        import_checkpoint(golden_dir / OLD_UNET, widths=64)


def test_a_folder_gives_the_averaged_weights_first(tmp_path, unet_state):
    for name in ("latest_G.pth", "latest_D.pth", "latest_EMA.pth"):
        torch.save(unet_state, tmp_path / name)
    assert import_checkpoint(tmp_path).report.file.endswith("latest_EMA.pth")
    torch.save(unet_state, tmp_path / "best_EMA.pth")
    assert import_checkpoint(tmp_path).report.file.endswith("best_EMA.pth")
    assert "best_EMA.pth was taken, not latest_D.pth" in str(import_checkpoint(tmp_path).report)
    notes = import_checkpoint(tmp_path / "latest_G.pth").report.notes
    assert any("latest_EMA.pth" in note for note in notes)


def test_a_folder_without_one_choice_asks_for_a_file(tmp_path, unet_state):
    refused(tmp_path, "without a file")
    for epoch in (100, 200):
        torch.save(unet_state, tmp_path / f"{epoch}_net_G.pth")
    refused(tmp_path, "2 files", "100_net_G.pth")


def test_an_import_does_not_depend_on_a_wrapper(tmp_path, unet_state):
    for name, content in {
        "ddp.pth": {f"module.{key}": value for key, value in unet_state.items()},
        "wrapped.pth": {"state_dict": unet_state},
        "half.pth": {key: value.half() if value.is_floating_point() else value for key, value in unet_state.items()},
    }.items():
        torch.save(content, tmp_path / name)
        network = import_checkpoint(tmp_path / name).network
        assert torch.allclose(network.downs[0].conv.weight, unet_state["model.model.0.weight"], atol=1e-3)
        assert network.downs[0].conv.weight.dtype == torch.float32


@pytest.mark.parametrize("hints", [{"dropout": "high"}, {"dropout": -1}])
def test_a_hint_of_the_wrong_kind_is_named(golden_dir, hints):
    with pytest.raises(ConfigError, match="dropout"):
        import_checkpoint(golden_dir / OLD_UNET, **hints)


@pytest.mark.parametrize("hints", [{"noise_channels": "abc"}, {"in_channels": "abc"}, {"noise_channels": 1.5}])
def test_a_noise_width_of_the_wrong_kind_is_named(golden_dir, tmp_path, hints):
    import numpy as np

    golden = np.load(golden_dir / "oasis_G_instance_nonoise.npz")
    state = {key.removeprefix("sd/"): torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}
    torch.save(state, tmp_path / "best_G.pth")
    with pytest.raises(ConfigError, match="channels="):
        import_checkpoint(tmp_path / "best_G.pth", **hints)


def test_our_own_file_is_recognised_by_its_record(golden_dir, tmp_path):
    write_imported(import_checkpoint(golden_dir / OLD_UNET), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "is a file of monai_synth already", "load_network")


def test_an_import_leaves_the_seed_alone(golden_dir):
    torch.manual_seed(3)
    import_checkpoint(golden_dir / OLD_UNET)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_a_written_import_is_a_network_again(golden_dir, tmp_path):
    imported = import_checkpoint(golden_dir / OLD_UNET)
    file, _ = write_imported(imported, tmp_path / "model.pt")
    network = load_network(file)
    assert not network.training
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), imported.network(x))
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match="network_def"):
        load_network(file)

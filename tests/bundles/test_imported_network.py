"""A published file on its way through the bundle: imported, trained on, used."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_state, load_weights, write_imported
from monai_synth.data.manifest import read_manifest
from tests.bundles.conftest import SMALL, RunBundle


@pytest.fixture(scope="module")
def imported(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet of another project, one channel in and out, as `monai-synth checkpoint import` writes it."""
    golden = np.load(golden_dir / "cut_G_resnet4_noantialias_batch.npz")
    state = {key.removeprefix("sd/"): torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}
    folder = tmp_path_factory.mktemp("imported")
    weights, _ = write_imported(import_state(state, "latest_net_G.pth"), folder / "start.pt")
    return weights


def test_it_translates_a_scan_in_the_bundle(
    run_bundle: RunBundle, imported: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    scan = read_manifest(demo_manifest).cases(image="mr")[0]["image"]
    configs = f"['configs/inference.json','{imported.with_suffix('.json')}']"
    arguments = ["--input", str(scan), "--checkpoint", str(imported), "--output_dir", str(tmp_path)]
    run_bundle("run", "--config_file", configs, *arguments)
    (written,) = tmp_path.glob("*.nii.gz")
    image, source = nibabel.load(written), nibabel.load(scan)
    assert image.shape == source.shape
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    assert len(np.unique(np.asarray(image.dataobj))) > 10


def test_it_is_trained_on_from_its_weights(
    run_bundle: RunBundle, imported: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    configs = f"['configs/train.json','{imported.with_suffix('.json')}']"
    options = [*SMALL, "--learning_rate", "0.0", "--initial_weights", str(imported)]
    run_bundle(
        "run",
        "training",
        "--config_file",
        configs,
        "--manifest",
        str(demo_manifest),
        "--output_dir",
        str(tmp_path),
        *options,
    )
    record = json.loads((tmp_path / "models" / "model.json").read_text())
    assert record["settings"]["initial_weights"] == str(imported)
    # Nothing is learnt at a learning rate of 0: the weights are those of the file.
    before, after = torch.load(imported), torch.load(tmp_path / "models" / "model.pt")
    assert before.keys() == after.keys()
    for key, value in before.items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(after[key], value)
    from monai.bundle import ConfigParser

    network = ConfigParser(json.loads(imported.with_suffix(".json").read_text())).get_parsed_content("network_def")
    load_weights(network, tmp_path / "models" / "model.pt")

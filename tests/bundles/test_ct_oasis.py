"""Label map to CT, by the commands of its README, on very small phantoms."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from monai.bundle import verify_metadata

from monai_synth.data.labels import LabelTable
from monai_synth.data.manifest import read_manifest
from monai_synth.data.phantom import LABELS
from tests.bundles.conftest import run_in

TABLE = str({str(label): name for label, name in LABELS.items()})
TINY = ["--channels", "1", "--noise_channels", "2", "--discriminator_channels", "2", "--patch_size", "[32,32]"]
SMALL = [
    *TINY,
    "--labels",
    TABLE,
    "--batch_size",
    "8",
    "--epochs",
    "1",
    "--val_interval",
    "1",
    "--refresh_batch_norm",
    "1",
]


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "ct_oasis"


@pytest.fixture(scope="module")
def trained(folder: Path, demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("oasis")
    train = ["run", "training", "--config_file", "configs/train.json", "--manifest", str(demo_manifest)]
    run_in(folder, *train, "--output_dir", str(out), *SMALL)
    return out


def test_training_leaves_a_model_and_its_record(trained: Path) -> None:
    assert (trained / "models" / "model.pt").exists()
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "ct_oasis"
    assert record["settings"]["labels"] == LabelTable(LABELS).to_dict()
    history = pd.read_csv(trained / "history.csv")
    assert {"g_gan", "d_real", "d_fake", "d_labelmix"} <= set(history.columns)
    assert list((trained / "previews").glob("*.png"))


def test_evaluation_compares_with_the_mean_ct_of_each_label(folder: Path, trained: Path, demo_manifest: Path) -> None:
    configs = "['configs/train.json','configs/evaluate.json']"
    evaluate = ["run", "evaluating", "--config_file", configs, "--manifest", str(demo_manifest)]
    run_in(folder, *evaluate, "--output_dir", str(trained), *SMALL)
    scores = pd.read_csv(next((trained / "evaluation").glob("*cases*.csv")))
    assert scores["mae_hu"].notna().all()
    assert scores["method"].nunique() > 1


def test_inference_gives_hu_on_the_grid_of_the_label_map(
    folder: Path, trained: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    labels = read_manifest(demo_manifest).cases(image="labels")[0]["image"]
    images = []
    for seed in ("0", "0", "1"):
        out = tmp_path / str(len(images))
        infer = ["run", "--config_file", "configs/inference.json", "--input", str(labels), "--output_dir", str(out)]
        run_in(
            folder,
            *infer,
            *TINY[:4],
            "--labels",
            TABLE,
            "--seed",
            seed,
            "--checkpoint",
            str(trained / "models/model.pt"),
        )
        (file,) = out.glob("*.nii.gz")
        image, source = nibabel.load(file), nibabel.load(labels)
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
        images.append(np.asarray(image.dataobj))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert images[0].min() >= -1024
    assert images[0].max() <= 2000


def test_a_label_that_is_not_in_the_table_is_named_with_its_file(
    folder: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    fewer = str({"0": "air", "1": "skin"})
    options = [*SMALL, "--labels", fewer, "--output_dir", str(tmp_path)]
    train = ["run", "training", "--config_file", "configs/train.json", "--manifest", str(demo_manifest)]
    result = run_in(folder, *train, *options, check=False)
    assert result.returncode != 0
    assert "labels.nii.gz" in result.stderr
    assert "label table" in result.stderr or "not in the table" in result.stderr


def test_metadata_follows_the_schema(folder: Path) -> None:
    verify_metadata(
        meta_file=str(folder / "configs" / "metadata.json"),
        filepath=str(Path(__file__).with_name("meta_schema_20240725.json")),
    )

"""Unpaired label maps and MR, by the commands of the README, on very small phantoms."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import verify_metadata

from monai_synth.data.manifest import read_manifest
from monai_synth.data.phantom import LABELS
from tests.bundles.conftest import run_in

# Air and table are background, and the classes have other numbers than the ids.
CLASSES = {"background": [0]} | {name: [label] for label, name in reversed(LABELS.items()) if label}
NETWORK = ["--channels", "2", "--num_blocks", "2", "--hidden_channels", "4", "--noise_channels", "2"]
NETWORK += ["--spacing_mm", "[6.0,6.0,6.0]", "--labels", str(CLASSES)]
SMALL = [*NETWORK, "--patch_size", "[32,32]", "--min_foreground", "20", "--batch_size", "8"]
SMALL += ["--segmenter_channels", "2", "--discriminator_channels", "2", "--discriminator_max_channels", "4"]
SMALL += ["--decoder_channels", "2", "--refresh_batch_norm", "1", "--val_interval", "1"]
SMALL += ["--roles", str({"condition": "labels", "target": "mr"})]
TRAIN = ["run", "training", "--config_file", "configs/train.json"]


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "mr_usis"


@pytest.fixture(scope="module")
def cohort(demo_manifest: Path) -> Path:
    """One phantom gives the label map of the training and the others its MR; val and test have one person for both."""
    table = pd.read_csv(demo_manifest, dtype=str)
    label_domain = ~table["split"].duplicated()
    image_domain = (table["split"] != "train") | ~label_domain
    labelled = table[label_domain].assign(own_mr=table["mr"], mr=None)
    images = table[image_domain].assign(case_id=table["case_id"] + "_mr", labels=None)
    file = demo_manifest.with_name("unpaired.csv")
    pd.concat([labelled, images]).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def trained(folder: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("usis")
    run_in(folder, *TRAIN, "--manifest", str(cohort), "--output_dir", str(out), "--epochs", "1", *SMALL)
    return out


def test_all_players_and_the_decoder_are_trained(trained: Path) -> None:
    history = pd.read_csv(trained / "history.csv")
    assert {"g_segmentation", "g_gan", "g_body", "s_fake", "d_real", "d_fake", "d_decoder", "d_r1"} <= set(history)
    assert np.isfinite(history["val_texture_kid"]).all()
    state = torch.load(trained / "models" / "last.pt", weights_only=True)["parts"]
    assert state["decoder"]
    assert state["objective"]["discriminator_turns"] > 0
    assert list((trained / "previews").glob("*.png"))


def test_the_record_says_what_was_trained_on(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "mr_usis"
    assert record["metric"] == "texture_kid"
    assert record["settings"]["labels"] == CLASSES
    assert record["intensity"]["pred"]["unit"] == "relative units"


def test_evaluation_gives_texture_and_compares_pairs_where_there_are(folder: Path, trained: Path, cohort: Path) -> None:
    configs = "['configs/train.json','configs/evaluate.json']"
    evaluate = ["run", "evaluating", "--config_file", configs, "--manifest", str(cohort), "--output_dir", str(trained)]
    run_in(folder, *evaluate, "--epochs", "1", "--paired_role", "own_mr", *SMALL)
    summary = pd.read_csv(trained / "evaluation" / "summary.csv").set_index("metric")
    assert np.isfinite(summary.loc["texture_kid", "mean"])
    assert summary.loc["mae", "unit"] == "relative units"
    assert 0 < summary.loc["mae", "mean"] < 1000
    cases = pd.read_csv(trained / "evaluation" / "cases.csv")
    (file,) = (trained / "evaluation" / "predictions").glob("*.nii.gz")
    image, source = nibabel.load(file), nibabel.load(cases["condition"][0])
    assert image.shape == source.shape
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)


def test_inference_gives_relative_units_on_the_grid_of_the_label_map(
    folder: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    labels = read_manifest(cohort).part("test").with_roles("labels").cases(image="labels")[0]["image"]
    images = []
    for seed in ("0", "1"):
        out = tmp_path / str(len(images))
        infer = ["run", "--config_file", "configs/inference.json", "--input", str(labels), "--output_dir", str(out)]
        run_in(folder, *infer, *NETWORK, "--seed", seed, "--checkpoint", str(trained / "models" / "model.pt"))
        (file,) = out.glob("*_t1.nii.gz")
        image, source = nibabel.load(file), nibabel.load(labels)
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
        images.append(np.asarray(image.dataobj))
    assert not np.array_equal(*images)
    assert images[0].min() == 0
    assert 0 < images[0].max() <= 1000


def test_metadata_follows_the_schema_and_the_table_of_labels(folder: Path) -> None:
    schema = Path(__file__).with_name("meta_schema_20240725.json")
    verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=str(schema))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    configs = [json.loads((folder / "configs" / name).read_text()) for name in ("train.json", "inference.json")]
    channels = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    assert list(channels.values()) == list(configs[0]["labels"])
    assert configs[0]["labels"] == configs[1]["labels"]

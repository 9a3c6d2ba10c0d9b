"""Head and tumour to slices of brain MR, by the commands of its README, on drawn heads in the layout of Kaggle."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from PIL import Image

from monai_synth.data.manifest import Manifest, read_manifest, with_column
from monai_synth.data.manifest_check import check_manifest
from monai_synth.data.recipes import build_manifest
from monai_synth.errors import IntensityError, LabelError
from tests.bundles.conftest import run_in

PATIENTS = {"TCGA_CS_0001_20000101": "train", "TCGA_DU_0002_20000102": "val", "TCGA_DU_0003_20000103": "test"}
NUM_SLICES = 4
SIZE = (44, 40)  # width, height
NETWORK = ["--channels", "2", "--num_downs", "2", "--num_blocks", "1"]
SMALL = [*NETWORK, "--discriminator_channels", "2", "--patch_size", "[48,48]", "--batch_size", "2", "--epochs", "1"]
TRAIN = ["run", "training", "--config_file", "configs/train.json"]


def write_heads(root: Path) -> None:
    """Draw the slices of three patients: the first one empty, the second without a tumour."""
    rng = np.random.default_rng(0)
    x, y = np.indices(SIZE)
    for patient in PATIENTS:
        for below in ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"):  # the archive holds everything twice
            (root / below / patient).mkdir(parents=True)
        for number in range(1, NUM_SLICES + 1):
            head = np.hypot((x - 22) / 16, (y - 20) / 14) < (0 if number == 1 else 1)
            tumour = np.hypot(x - 27, y - 17) < (0 if number < 3 else 4)
            channels = [head * 90 + 60 * tumour * (k == 1) + 20 * head * (k == 2) for k in range(3)]
            image = np.stack(channels, axis=-1) + rng.uniform(0, 5, size=(*SIZE, 3)) * head[..., None]
            image[3, 3] += 2  # an image is never quite empty
            for below in ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"):
                stem = root / below / patient / f"{patient}_{number}"
                Image.fromarray(image.astype(np.uint8).swapaxes(0, 1)).save(f"{stem}.tif")
                Image.fromarray((tumour * 255).astype(np.uint8).T).save(f"{stem}_mask.tif")
    for name in ("data.csv", "README.md"):
        (root / "kaggle_3m" / name).write_text("not an image")


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "lgg_pix2pixhd"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("lgg")
    write_heads(root)
    return build_manifest("lgg_kaggle", root, root / "cohort.csv")


@pytest.fixture(scope="module")
def cohort(built: Manifest) -> Path:
    split = built.table["patient_id"].map(PATIENTS).tolist()
    file = built.file.with_name("split.csv")
    with_column(built.table, "split", split).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def trained(folder: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lgg_pix2pixhd")
    run_in(folder, *TRAIN, "--manifest", str(cohort), "--output_dir", str(out), *SMALL)
    return out


def dataset_of(folder: Path, cohort: Path, out: Path, **changes: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    parser.update({"manifest": str(cohort), "output_dir": str(out), "patch_size": [48, 48], **changes})
    return parser


def test_recipe_keeps_patients_together_and_leaves_the_second_copy_out(
    built: Manifest, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        build_manifest("lgg_kaggle", built.file.parent, tmp_path / "again.csv")
    assert not caplog.records  # masks fit the pattern of the images too, which is no reason to worry
    table = built.table.set_index("case_id")
    assert len(table) == len(PATIENTS) * NUM_SLICES
    row = table.loc["TCGA_DU_0002_20000102_3"]
    assert row["patient_id"] == "TCGA_DU_0002_20000102"
    assert (row["site"], row["meta_slice"]) == ("DU", "3")
    assert row["image"] == "kaggle_3m/TCGA_DU_0002_20000102/TCGA_DU_0002_20000102_3.tif"
    assert row["seg"] == "kaggle_3m/TCGA_DU_0002_20000102/TCGA_DU_0002_20000102_3_mask.tif"


def test_recipe_finds_the_real_cohort(shared_dir: Path, tmp_path: Path) -> None:
    manifest = build_manifest("lgg_kaggle", shared_dir / "data/D_lgg/lgg-mri-segmentation", tmp_path / "cohort.csv")
    assert len(manifest) == 177
    assert len(manifest.patients) == 8
    assert not [finding for finding in check_manifest(manifest) if finding.severity == "error"]


def test_training_leaves_a_model_and_its_record(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "lgg_pix2pixhd"
    assert record["metric"] == "texture_kid"
    assert np.isfinite(record["value"])
    assert record["settings"]["labels"]["ids"] == [0, 1, 255]
    history = pd.read_csv(trained / "history.csv")
    assert {"g_gan", "g_feat", "d_real", "d_fake", "val_texture_kid", "val_mae"} <= set(history.columns)
    assert list((trained / "previews").glob("*.png"))


def test_evaluation_scores_the_images_that_it_writes(folder: Path, trained: Path, cohort: Path) -> None:
    configs = "['configs/train.json','configs/evaluate.json']"
    evaluate = ["run", "evaluating", "--config_file", configs, "--manifest", str(cohort)]
    run_in(folder, *evaluate, "--output_dir", str(trained), *SMALL)
    cases = pd.read_csv(trained / "evaluation" / "cases.csv")
    targets = {case["case_id"]: case["target"] for case in read_manifest(cohort).part("test").cases(target="image")}
    model = cases[cases["method"] == "model"].set_index("case_id")
    assert set(model.index) == set(targets)
    for case, file in targets.items():
        pred, target = (np.asarray(Image.open(path), dtype=float) for path in (model["prediction"][case], file))
        assert pred.shape == target.shape
        assert np.abs(pred - target).mean() == pytest.approx(model["mae"][case], abs=0.01)
    summary = pd.read_csv(trained / "evaluation" / "summary.csv").set_index(["method", "metric"])
    assert np.isfinite(summary["mean"]["model", "texture_kid"])
    # Head and tumour are nearly flat here: their mean by label, background among them, is off by little but noise.
    assert summary["mean"]["mean_target_by_label", "mae"] < 4
    # Texture is judged against training slices, with the real test slices beside it.
    assert {"mean_target_by_label", "real_images"} <= set(summary.xs("texture_kid", level="metric").index)
    assert ("real_images", "mae") not in summary.index
    about = json.loads((trained / "evaluation" / "evaluation.json").read_text())["distribution"]["texture_kid"]
    assert [about[f"num_{name}"] for name in ("reference", "shared_patients")] == [NUM_SLICES, 0]


def test_inference_draws_pictures_of_the_size_of_the_maps(
    folder: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    mask = cohort.parent / "kaggle_3m/TCGA_DU_0003_20000103/TCGA_DU_0003_20000103_3_mask.tif"
    labels = np.array(Image.open(mask))
    labels[5:35, 8:36][labels[5:35, 8:36] == 0] = 1
    Image.fromarray(labels).save(tmp_path / "drawn.png")
    infer = ["run", "--config_file", "configs/inference.json", "--checkpoint", str(trained / "models/model.pt")]
    run_in(folder, *infer, "--input", str(tmp_path / "drawn.png"), "--output_dir", str(tmp_path / "out"), *NETWORK)
    (file,) = (tmp_path / "out").iterdir()
    picture = Image.open(file)
    assert (file.name, picture.mode, picture.size) == ("drawn_mr.png", "RGB", SIZE)


def test_inference_needs_the_head(folder: Path, cohort: Path, tmp_path: Path) -> None:
    mask = cohort.parent / "kaggle_3m/TCGA_DU_0003_20000103/TCGA_DU_0003_20000103_3_mask.tif"
    for head_mask in (True, False):
        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser.update({"input": str(mask), "output_dir": str(tmp_path), "head_mask": head_mask})
        dataset = parser.get_parsed_content("dataset")
        if head_mask:
            with pytest.raises(LabelError, match=r"_3_mask\.tif.*the ids 0, 255, but no 1 \(head\)"):
                dataset[0]
        else:
            assert dataset[0]["image"].shape == (2, *SIZE)


def test_slices_hold_head_and_tumour_where_the_image_has_them(folder: Path, cohort: Path, tmp_path: Path) -> None:
    dataset = dataset_of(folder, cohort, tmp_path).get_parsed_content("train#dataset")
    assert len(dataset) == NUM_SLICES
    for item in dataset:
        condition, target = item["condition"], item["target"]
        assert condition.shape == target.shape == (3, 48, 48)
        assert torch.equal(condition.sum(dim=0), torch.ones(48, 48))
        background, head, tumour = condition > 0
        assert target[:, background].mean() < -0.9
        if item["case_id"].endswith("_1"):
            assert background.all()
        else:
            assert target[0, head].mean() > -0.5
            assert tumour.any() == (not item["case_id"].endswith("_2"))
            assert not tumour.any() or target[1, tumour].mean() > target[1, head].mean() + 0.3


def test_masks_and_pictures_that_would_be_misread_are_refused(
    folder: Path, cohort: Path, built: Manifest, tmp_path: Path
) -> None:
    table = with_column(built.table, "split", built.table["patient_id"].map(PATIENTS).tolist())
    row = table.index[table["case_id"] == "TCGA_CS_0001_20000101_4"][0]
    for role, change, error, words in (
        ("seg", lambda pixels: (pixels > 0).astype(np.uint8), LabelError, "has the id 1 already"),
        ("image", lambda pixels: pixels[..., 0].astype(np.uint16) * 9, IntensityError, "one channel of more than 8"),
    ):
        file = built.root / f"{role}.tif"
        Image.fromarray(change(np.asarray(Image.open(built.root / table.loc[row, role])))).save(file)
        changed = table.copy()
        changed.loc[row, role] = file.name
        manifest = built.root / f"{role}.csv"
        changed.to_csv(manifest, index=False)
        with pytest.raises(error, match=rf"Case 'TCGA_CS_0001_20000101_4'.*{words}"):
            list(dataset_of(folder, manifest, tmp_path).get_parsed_content("validate#reference"))


def test_the_tumour_alone_is_a_condition_too(folder: Path, cohort: Path, tmp_path: Path) -> None:
    parser = dataset_of(folder, cohort, tmp_path, head_mask=False, channels=2, num_downs=2, num_blocks=1)
    item = parser.get_parsed_content("train#dataset")[NUM_SLICES - 1]
    assert item["condition"].shape == (2, 48, 48)
    assert 0 < item["condition"][1].mean() < 0.1
    assert parser.get_parsed_content("network_def")(item["condition"][None]).shape == (1, 3, 48, 48)


def test_published_networks_are_the_default(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    # pix2pixHD: 182,546,755 and 5,603,202 parameters with 36 channels in and 39 into the discriminator.
    with torch.device("meta"):
        generator, discriminator = (parser.get_parsed_content(name) for name in ("network_def", "discriminator_def"))
    assert sum(p.numel() for p in generator.parameters()) == 182_546_755 - 33 * 7 * 7 * 64
    assert sum(p.numel() for p in discriminator.parameters()) == 5_603_202 - 33 * 2 * 4 * 4 * 64
    inference = ConfigParser()
    inference.read_config(folder / "configs" / "inference.json")
    assert inference.get("network_def") == parser.get("network_def")
    assert inference.get("labels") == parser.get("labels")


def test_metadata_follows_the_schema(folder: Path) -> None:
    file = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(file), filepath=str(Path(__file__).with_name("meta_schema_20240725.json")))

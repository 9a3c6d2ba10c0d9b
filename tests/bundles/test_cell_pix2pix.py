"""Cells to microscopic images, by the commands of its README, on small drawn cells in the layout of DSB 2018."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from PIL import Image

from monai_synth import cli
from monai_synth.data.manifest import Manifest, read_manifest, with_column
from monai_synth.data.manifest_check import check_manifest
from monai_synth.data.recipes import build_manifest
from monai_synth.errors import IntensityError
from tests.bundles.conftest import run_in

SPLITS = ("train", "train", "train", "val", "val", "test", "test")
SIZES = ((41, 30), (33, 37), (64, 48))  # width, height
BRIGHTNESS = np.array([0, 150, 90])  # background, interior, boundary
NETWORK = ["--channels", "2", "--num_downs", "3"]
SMALL = [*NETWORK, "--patch_size", "[32,32]", "--batch_size", "2", "--epochs", "1"]
TRAIN = ["run", "training", "--config_file", "configs/train.json"]


def write_cells(root: Path) -> None:
    """Draw square cells with rims; two of them touch and have ids that are equal modulo 256."""
    rng = np.random.default_rng(0)
    for number in range(len(SPLITS)):
        width, height = SIZES[number % len(SIZES)]
        ids, classes = (np.zeros((height, width), dtype=np.uint16) for _ in range(2))
        for cell, left in ((44, 4), (300, 12), (65535, 24)):
            ids[6:14, left : left + 8], classes[6:14, left : left + 8] = cell, 2
            classes[7:13, left + 1 : left + 7] = 1
        grey = (BRIGHTNESS[classes] + rng.integers(0, 9, size=ids.shape)).astype(np.uint8)
        name = f"{number:02d}ab"
        folder = root / "stage1_train" / name / "images"
        folder.mkdir(parents=True)
        Image.fromarray(grey).convert("RGBA").save(folder / f"{name}.png")
        (root / "instance_labels").mkdir(exist_ok=True)
        Image.fromarray(ids).save(root / "instance_labels" / f"{name}.png")


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "cell_pix2pix"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("cells")
    write_cells(root)
    return build_manifest("dsb2018", root, root / "cohort.csv")


@pytest.fixture(scope="module")
def cohort(built: Manifest) -> Path:
    file = built.file.with_name("split.csv")
    with_column(built.table, "split", list(SPLITS)).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def trained(folder: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cell_pix2pix")
    run_in(folder, *TRAIN, "--manifest", str(cohort), "--output_dir", str(out), *SMALL)
    return out


def test_recipe_pairs_images_with_instance_labels(built: Manifest) -> None:
    row = built.table.set_index("case_id").loc["03ab"]
    assert row["image"] == "stage1_train/03ab/images/03ab.png"
    assert row["labels"] == "instance_labels/03ab.png"
    assert len(built) == len(SPLITS)


def test_recipe_finds_the_real_cohort(shared_dir: Path, tmp_path: Path) -> None:
    manifest = build_manifest("dsb2018", shared_dir / "data/F_microscopy/DSB2018", tmp_path / "cohort.csv")
    assert len(manifest) == len(manifest.patients) == 99
    assert not check_manifest(manifest)


def test_training_leaves_a_model_and_its_record(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "cell_pix2pix"
    assert record["metric"] == "texture_kid"
    assert np.isfinite(record["value"])
    assert record["settings"]["boundary_width"] == 1
    assert record["settings"]["image_mode"] == "L"
    history = pd.read_csv(trained / "history.csv")
    assert {"g_gan", "g_l1", "d_real", "d_fake", "val_texture_kid", "val_mae"} <= set(history.columns)
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
        picture, target = Image.open(model["prediction"][case]), Image.open(file)
        assert (picture.mode, picture.size) == ("L", target.size)
        error = np.asarray(picture, dtype=float) - np.asarray(target.convert("L"), dtype=float)
        assert np.abs(error).mean() == pytest.approx(model["mae"][case], abs=0.01)
    summary = pd.read_csv(trained / "evaluation" / "summary.csv").set_index(["method", "metric"])
    assert np.isfinite(summary["mean"]["model", "texture_kid"])
    # Each class has one brightness here: only the noise of 0 to 8 is left when the classes are right.
    assert summary["mean"]["mean_target_by_label", "mae"] < 3
    # Judged against training images, with the real test images beside it.
    assert np.isfinite(summary["mean"]["real_images", "texture_kid"])
    assert ("real_images", "mae") not in summary.index
    about = json.loads((trained / "evaluation" / "evaluation.json").read_text())["distribution"]["texture_kid"]
    assert [about[f"num_{name}"] for name in ("images", "reference", "shared_patients")] == [2, 3, 0]


def test_inference_takes_maps_of_instances(folder: Path, trained: Path, cohort: Path, tmp_path: Path) -> None:
    maps = sorted((cohort.parent / "instance_labels").glob("*.png"))
    options = ["--input", str(maps[0].parent), "--output_dir", str(tmp_path), *NETWORK]
    checkpoint = ["--checkpoint", str(trained / "models" / "model.pt")]
    run_in(folder, "run", "--config_file", "configs/inference.json", *options, *checkpoint)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [f"{file.stem}_image.png" for file in maps]
    for file in maps:
        picture = Image.open(tmp_path / f"{file.stem}_image.png")
        assert (picture.mode, picture.size) == ("L", Image.open(file).size)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_crops_hold_the_classes_where_the_image_has_them(
    folder: Path, cohort: Path, tmp_path: Path, mode: str, channels: int
) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    parser.update({"manifest": str(cohort), "output_dir": str(tmp_path), "patch_size": [48, 48], "image_mode": mode})
    dataset = parser.get_parsed_content("train#dataset")
    seen = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for item in dataset:
            condition, target = item["condition"], item["target"]
            assert condition.shape == (3, 48, 48)
            assert target.shape == (channels, 48, 48)
            assert torch.equal(condition.sum(dim=0), torch.ones(48, 48))
            grey_levels = (target + 1) / 2 * 255
            for number, brightness in enumerate(BRIGHTNESS):
                inside = grey_levels[:, condition[number] > 0]
                assert brightness - 0.5 < inside.min() <= inside.max() < brightness + 8.5
            seen.add(round(float((target * torch.arange(48)).sum()), 2))
    assert len(seen) > len(dataset)
    assert parser.get_parsed_content("network_def#out_channels") == channels


def read_configs(folder: Path, *names: str, **changes: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([folder / "configs" / f"{name}.json" for name in names])
    parser.update(changes)
    return parser


def test_validation_is_judged_against_training_images_too(folder: Path, cohort: Path) -> None:
    metric = read_configs(folder, "train", manifest=str(cohort)).get_parsed_content("validate#key_metric#texture_kid")
    assert {case["split"] for case in metric.reference.data} == {"train"}


def test_one_test_image_can_be_evaluated(folder: Path, built: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "one.csv"
    with_column(built.table, "split", ["train"] * 4 + ["val"] * 2 + ["test"]).to_csv(file, index=False)
    changes = {"manifest": str(file), "dataset_dir": str(built.root), "output_dir": str(tmp_path)}
    parser = read_configs(folder, "train", "evaluate", **changes)
    assert len(parser.get_parsed_content("validate#dataset")) == 1
    assert len(parser.get_parsed_content("validate#key_metric#texture_kid").reference) == 4


def test_sixteen_bits_are_refused_or_kept_but_never_cut_off(folder: Path, built: Manifest, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = with_column(built.table, "split", list(SPLITS))
    table["image"] = table["case_id"] + ".png"
    for name, labels in zip(table["image"], table["labels"], strict=True):
        shape = np.asarray(Image.open(built.root / labels)).shape
        Image.fromarray(rng.integers(0, 4096, shape).astype(np.uint16)).save(tmp_path / name)
        (tmp_path / labels).parent.mkdir(exist_ok=True)
        (tmp_path / labels).write_bytes((built.root / labels).read_bytes())
    table.to_csv(tmp_path / "deep.csv", index=False)
    changes = {"manifest": str(tmp_path / "deep.csv"), "output_dir": str(tmp_path / "run"), "patch_size": [16, 16]}
    with pytest.raises(IntensityError, match=r"00ab\.png has values from \d+ to 40\d\d.*--intensity#target#high 65535"):
        read_configs(folder, "train", **changes).get_parsed_content("validate#reference")[0]
    with pytest.raises(RuntimeError, match="SliceDataset"):
        read_configs(folder, "train", **changes).get_parsed_content("train#dataset")
    changes["intensity#target#high"] = 4095
    parser = read_configs(folder, "train", "evaluate", **changes)
    targets = torch.stack([item["target"] for item in parser.get_parsed_content("train#dataset")])
    assert abs(float(targets.mean())) < 0.1
    assert float(targets.std()) == pytest.approx(3**-0.5, abs=0.05)  # evenly spread over [-1, 1]
    assert parser.get_parsed_content("validate#dataset")[0]["target"].max() > 4000
    assert parser.get_parsed_content("validate#key_metric#mae").describe()["data_range"] == 4095
    assert parser.get_parsed_content("bits") == 16
    assert read_configs(folder, "inference").get_parsed_content("bits") == 8


def test_the_cohort_is_prepared_by_the_steps_of_the_readme(
    folder: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order, as they stand there, from the folders of Kaggle; one image of six is bright field."""
    for number, patient in enumerate(read_manifest(cohort).table["patient_id"].tolist()):
        source = cohort.parent / "stage1_train" / patient / "images" / f"{patient}.png"
        ids = np.asarray(Image.open(cohort.parent / "instance_labels" / f"{patient}.png"))
        picture = np.asarray(Image.open(source).convert("L"))
        for below in ("images", "masks"):
            (tmp_path / "stage1_train" / patient / below).mkdir(parents=True)
        Image.fromarray(255 - picture if number == 0 else picture).save(
            tmp_path / "stage1_train" / patient / "images" / f"{patient}.png"
        )
        for cell in np.unique(ids[ids > 0]):
            mask = Image.fromarray(((ids == cell) * 255).astype(np.uint8))
            mask.save(tmp_path / "stage1_train" / patient / "masks" / f"{cell:05}.png")
    section = (folder / "docs" / "README.md").read_text(encoding="utf-8").split("\n## ")[1]
    assert section.startswith("The cohort")
    steps = re.findall(r"```(python|bash)\n(.*?)```", section, flags=re.DOTALL)
    assert [language for language, _ in steps] == ["python", "bash", "python", "bash"]
    for language, text in steps:
        script = text.replace("DATA", tmp_path.as_posix())
        if language == "python":
            exec(script, {})
            continue
        monkeypatch.setattr(sys, "argv", shlex.split(script, comments=True))
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        assert not leaving.value.code
    assert "--dataset_dir" not in capsys.readouterr().out
    split = read_manifest(tmp_path / "split.csv")
    assert len(split) == len(SPLITS) - 1
    assert split.splits == ("train", "val", "test")
    case = split.cases(condition="labels", target="image")[0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(case["condition"])) > 0,
        np.asarray(Image.open(cohort.parent / "instance_labels" / f"{case['case_id']}.png")) > 0,
    )


def test_training_and_inference_build_one_network(folder: Path) -> None:
    train, inference = ConfigParser(), ConfigParser()
    train.read_config(folder / "configs" / "train.json")
    inference.read_config(folder / "configs" / "inference.json")
    for name in ("network_def", "labels", "boundary_width", "boundary_mode", "image_mode", "channels", "num_downs"):
        assert inference.get(name) == train.get(name), name


def test_metadata_follows_the_schema(folder: Path) -> None:
    file = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(file), filepath=str(Path(__file__).with_name("meta_schema_20240725.json")))

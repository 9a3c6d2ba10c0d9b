"""Lesion mask to dermoscopic image, by the commands of its README, on very small drawn pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from monai.data import MetaTensor
from PIL import Image

from monai_synth.data.manifest import read_manifest
from tests.bundles.conftest import run_in
from tests.bundles.lesions import write_lesions

NETWORK = ["--channels", "2", "--num_downs", "4", "--longest_side", "32"]
SMALL = [*NETWORK, "--patch_size", "[32,32]", "--batch_size", "2", "--epochs", "1"]
TRAIN = ["run", "training", "--config_file", "configs/train.json"]


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "lesion_pix2pix"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("lesions"), has_bilevel_mask=True)


@pytest.fixture(scope="module")
def trained(folder: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lesion_pix2pix")
    run_in(folder, *TRAIN, "--manifest", str(cohort), "--output_dir", str(out), *SMALL)
    return out


def test_training_chooses_the_model_by_texture(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "lesion_pix2pix"
    assert record["metric"] == "texture_kid"
    assert np.isfinite(record["value"])
    assert record["settings"]["adversarial"] == "vanilla"
    labels = {"ids": [0, 255], "names": ["background", "lesion"], "unknown_id": None}
    assert record["settings"]["labels"] == labels
    assert record["intensity"]["target"]["unit"] == "grey levels"
    history = pd.read_csv(trained / "history.csv")
    assert {"g_gan", "g_l1", "d_real", "d_fake", "val_texture_kid", "val_mae", "val_ssim"} <= set(history.columns)
    assert list((trained / "previews").glob("*.png"))


def test_evaluation_scores_the_images_that_it_writes(folder: Path, trained: Path, cohort: Path) -> None:
    configs = "['configs/train.json','configs/evaluate.json']"
    evaluate = ["run", "evaluating", "--config_file", configs, "--manifest", str(cohort)]
    run_in(folder, *evaluate, "--output_dir", str(trained), *SMALL)
    cases = pd.read_csv(trained / "evaluation" / "cases.csv")
    assert cases["method"].nunique() > 1
    targets = {case["case_id"]: case["target"] for case in read_manifest(cohort).part("test").cases(target="image")}
    model = cases[cases["method"] == "model"].set_index("case_id")
    assert set(model.index) == set(targets)
    for case, file in targets.items():
        pred = np.asarray(Image.open(model["prediction"][case]), dtype=float)
        assert pred.shape == np.asarray(Image.open(file)).shape
        assert np.abs(pred - np.asarray(Image.open(file))).mean() == pytest.approx(model["mae"][case], abs=0.01)
    summary = pd.read_csv(trained / "evaluation" / "summary.csv").set_index(["method", "metric"])
    baselines = set(cases["method"]) - {"model"}
    for method in ("model", "real_images", *baselines):
        assert np.isfinite(summary["mean"][method, "texture_kid"])
    assert ("real_images", "mae") not in summary.index  # they are the target
    about = json.loads((trained / "evaluation" / "evaluation.json").read_text())["distribution"]["texture_kid"]
    assert about["num_reference"] == 4  # the training images, none of a patient that is evaluated
    assert about["num_shared_patients"] == 0
    # Two flat colours, nearly without noise: their mean by label is hard to beat in the error by pixel.
    assert min(summary["mean"][name, "mae"] for name in baselines) < 10


def test_inference_draws_pictures_of_the_size_of_the_masks(
    folder: Path, trained: Path, cohort: Path, tmp_path: Path
) -> None:
    masks = cohort.parent / "mask"
    options = ["--input", str(masks), "--output_dir", str(tmp_path), *NETWORK]
    checkpoint = ["--checkpoint", str(trained / "models" / "model.pt")]
    run_in(folder, "run", "--config_file", "configs/inference.json", *options, *checkpoint)
    files = sorted(tmp_path.glob("*.png"))
    assert [file.name for file in files] == [f"{mask.stem}_image.png" for mask in sorted(masks.glob("*.png"))]
    for file, mask in zip(files, sorted(masks.glob("*.png")), strict=True):
        picture = Image.open(file)
        assert picture.mode == "RGB"
        assert picture.size == Image.open(mask).size


def test_a_mask_with_other_values_is_named_with_its_file(folder: Path, cohort: Path, tmp_path: Path) -> None:
    options = ["--roles", "{'condition': 'classes', 'target': 'image'}", "--output_dir", str(tmp_path), *SMALL]
    result = run_in(folder, *TRAIN, "--manifest", str(cohort), *options, check=False)
    assert result.returncode != 0
    assert "classes/lesion_0.png" in result.stderr
    assert "not in the label table" in result.stderr


def test_jitter_keeps_mask_and_picture_together(folder: Path, cohort: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    parser.update({"manifest": str(cohort), "output_dir": str(tmp_path), "longest_side": 40, "patch_size": [48, 32]})
    dataset = parser.get_parsed_content("train#dataset")
    seen = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for item in dataset:
            condition, target = item["condition"], item["target"]
            assert condition.shape == (2, 48, 32)
            assert target.shape == (3, 48, 32)
            assert target.abs().max() <= 1
            assert torch.equal(condition.sum(dim=0), torch.ones(48, 32))
            lesion = condition[1] > 0
            # Brown inside, skin outside, and no black border anywhere.
            assert target[:, lesion].mean() < -0.1 < 0.3 < target[:, ~lesion].mean()
            assert target[0].min() > -0.5
            seen.add(target.numpy().tobytes())
    assert len(seen) > 2 * len(dataset)  # not the same in every epoch


def centre(inside: torch.Tensor) -> torch.Tensor:
    """Mean position of the pixels of a plane that are inside."""
    return inside.nonzero().double().mean(dim=0)


@pytest.mark.parametrize("name", ["lesion_pix2pix", "lesion_pix2pixhd"])
def test_a_mask_that_was_made_smaller_lies_on_its_lesion(repository: Path, name: str, tmp_path: Path) -> None:
    options = {"manifest": str(write_lesions(tmp_path, scale=6)), "output_dir": str(tmp_path), "longest_side": 32}
    parser = ConfigParser()
    parser.read_config(repository / "bundles" / name / "configs" / "train.json")
    parser.update({**options, "patch_size": [32, 32], "max_zoom": 1.0})
    for part, key, middle in (("train", "target", 0.06), ("validate", "working_target", 135)):
        dataset = parser.get_parsed_content(f"{part}#dataset")
        items = [dataset[index] for index in range(len(dataset))]
        assert all(max(item[key].shape) == 32 for item in items)
        shifts = [
            centre(torch.as_tensor(item["condition"])[1] > 0) - centre(torch.as_tensor(item[key]).mean(dim=0) < middle)
            for item in items
        ]
        # Torch's "nearest" would shift the mask by half a pixel; flips turn the direction.
        assert torch.stack(shifts).abs().mean() < 0.15, part


@pytest.mark.parametrize("name", ["lesion_pix2pix", "lesion_pix2pixhd"])
def test_an_image_is_enlarged_without_blocks_and_judged_as_it_was_drawn(
    repository: Path, name: str, tmp_path: Path
) -> None:
    options = {"manifest": str(write_lesions(tmp_path, scale=4)), "output_dir": str(tmp_path), "longest_side": 32}
    parser = ConfigParser()
    parser.read_config(repository / "bundles" / name / "configs" / "train.json")
    parser.update(options)
    item = parser.get_parsed_content("validate#dataset")[0]
    slope = torch.linspace(-1, 1, item["condition"].shape[1])[:, None].expand(3, *item["condition"].shape[1:])
    out = parser.get_parsed_content("validate#postprocessing")({**item, "pred": MetaTensor(slope)})
    assert out["working_pred"].shape == item["working_target"].shape
    assert out["pred"].shape == item["target"].shape
    steps = torch.as_tensor(out["pred"]).diff(dim=1)[:, 4:-4]  # flat within half a pixel of the border
    assert 0.9 < steps.min() / steps.max() <= 1
    reference = parser.get_parsed_content("validate#reference")
    assert {case["patient_id"] for case in reference} == {f"lesion_{number}" for number in range(4)}
    assert all(max(case["target"].shape) == 32 and case["target"].max() > 100 for case in reference)


def test_published_networks_are_the_default(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    # Mask2Lesion: 54,409,603 parameters with 3 channels in; one convolution 4 x 4 to 64 channels has one fewer here.
    generator, discriminator = (parser.get_parsed_content(name) for name in ("network_def", "discriminator_def"))
    assert sum(p.numel() for p in generator.parameters()) == 54_409_603 - 4 * 4 * 64
    assert sum(p.numel() for p in discriminator.parameters()) == 2_767_809 - 4 * 4 * 64
    inference = ConfigParser()
    inference.read_config(folder / "configs" / "inference.json")
    assert inference.get("network_def") == parser.get("network_def")


def test_metadata_follows_the_schema(folder: Path) -> None:
    file = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(file), filepath=str(Path(__file__).with_name("meta_schema_20240725.json")))

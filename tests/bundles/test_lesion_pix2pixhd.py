"""Lesion classes and instances to dermoscopic image with pix2pixHD, on very small drawn pictures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from PIL import Image

from monai_synth.losses import VGGPerceptualLoss
from monai_synth.networks import LocalEnhancer
from tests.bundles.conftest import run_in
from tests.bundles.lesions import write_lesions

LABELS = "{'0': 'beyond', '1': 'skin', '2': 'lesion'}"
ROLES = "{'condition': 'classes', 'target': 'image', 'instances': 'instances'}"
NETWORK = ["--architecture", "pix2pixhd_local", "--channels", "2", "--num_downs", "1", "--num_blocks", "1"]
NETWORK += ["--longest_side", "32", "--labels", LABELS]
SMALL = [*NETWORK, "--discriminator_channels", "2", "--patch_size", "[32,32]", "--batch_size", "2", "--epochs", "1"]
SMALL += ["--roles", ROLES]


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "lesion_pix2pixhd"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("lesions"))


@pytest.fixture(scope="module")
def trained(folder: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lesion_pix2pixhd")
    train = ["run", "training", "--config_file", "configs/train.json", "--manifest", str(cohort)]
    run_in(folder, *train, "--output_dir", str(out), *SMALL)
    return out


def test_training_leaves_a_model_and_its_record(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "lesion_pix2pixhd"
    assert record["metric"] == "texture_kid"
    assert record["settings"]["use_instances"] is True
    assert record["networks"]["generator"]["class"] == "LocalEnhancer"
    history = pd.read_csv(trained / "history.csv")
    assert {"g_gan", "g_feat", "d_real", "d_fake", "val_texture_kid", "val_mae"} <= set(history.columns)
    assert "g_perceptual" not in history.columns
    assert list((trained / "previews").glob("*.png"))


@pytest.fixture(scope="module")
def evaluated(folder: Path, trained: Path, cohort: Path) -> Path:
    configs = "['configs/train.json','configs/evaluate.json']"
    evaluate = ["run", "evaluating", "--config_file", configs, "--manifest", str(cohort)]
    run_in(folder, *evaluate, "--output_dir", str(trained), *SMALL)
    return trained / "evaluation"


def test_evaluation_writes_pictures_of_the_native_size(evaluated: Path) -> None:
    cases = pd.read_csv(evaluated / "cases.csv")
    assert cases["method"].nunique() > 1
    model = cases[cases["method"] == "model"]
    assert len(model) == 2
    for prediction, target in zip(model["prediction"], model["target"], strict=True):
        assert Image.open(prediction).size == Image.open(target).size
    summary = pd.read_csv(evaluated / "summary.csv")
    assert set(summary[summary["metric"] == "texture_kid"]["method"]) == {*cases["method"], "real_images"}


def test_inference_takes_the_instances_of_the_same_name(
    folder: Path, trained: Path, evaluated: Path, cohort: Path, tmp_path: Path
) -> None:
    source = ["--input", str(cohort.parent / "classes"), "--instances_dir", str(cohort.parent / "instances")]
    options = ["--pattern", "lesion_[67].png", "--output_dir", str(tmp_path), *NETWORK]
    checkpoint = ["--checkpoint", str(trained / "models" / "model.pt")]
    run_in(folder, "run", "--config_file", "configs/inference.json", *source, *options, *checkpoint)
    assert len(list(tmp_path.glob("*.png"))) == 2
    for case in ("lesion_6", "lesion_7"):
        drawn, scored = tmp_path / f"{case}_image.png", evaluated / "predictions" / f"{case}.png"
        assert np.array_equal(np.asarray(Image.open(drawn)), np.asarray(Image.open(scored)))


def test_a_model_of_instances_is_not_used_without(folder: Path, trained: Path, cohort: Path, tmp_path: Path) -> None:
    options = ["--input", str(cohort.parent / "classes"), "--output_dir", str(tmp_path), *NETWORK]
    checkpoint = ["--checkpoint", str(trained / "models" / "model.pt")]
    result = run_in(folder, "run", "--config_file", "configs/inference.json", *options, *checkpoint, check=False)
    assert result.returncode != 0
    assert "Give the folder of the instance maps as --instances_dir." in result.stderr
    assert "Give --use_instances" not in result.stderr


def read(folder: Path, cohort: Path, out: Path, **options: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    parser.update({"manifest": str(cohort), "output_dir": str(out), "longest_side": 32, "patch_size": [32, 32]})
    parser.update(options)
    return parser


def test_condition_is_one_hot_classes_and_the_edges_of_instances(folder: Path, cohort: Path, tmp_path: Path) -> None:
    labels = {"0": "beyond", "1": "skin", "2": "lesion"}
    roles = {"condition": "classes", "target": "image", "instances": "instances"}
    parser = read(folder, cohort, tmp_path, labels=labels, roles=roles)
    for part in ("train", "validate"):
        dataset = parser.get_parsed_content(f"{part}#dataset")
        for item in (dataset[index] for index in range(len(dataset))):
            condition = torch.as_tensor(item["condition"])
            assert condition.shape[0] == 4
            assert torch.equal(condition[:3].sum(dim=0), torch.ones(condition.shape[1:]))
            edges = condition[3] > 0
            assert set(condition[3].unique().tolist()) == {0, 1}
            border = (condition[2, 1:] != condition[2, :-1]).nonzero()
            assert len(border)
            assert all(edges[x, y] and edges[x + 1, y] for x, y in border.tolist())
    assert parser.get_parsed_content("network_def").layers[1].in_channels == 4


def test_binary_masks_alone_are_the_default(folder: Path, cohort: Path, tmp_path: Path) -> None:
    parser = read(folder, cohort, tmp_path)
    item = parser.get_parsed_content("train#dataset")[1]
    assert item["condition"].shape == (2, 32, 32)
    assert parser.get_parsed_content("perceptual") is None


def test_published_networks_are_the_default(folder: Path) -> None:
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "train.json")
    parser.update({"labels": {str(k): f"class {k}" for k in range(35)}, "roles": {"instances": "instances"}})
    with torch.device("meta"):
        generator, discriminator = (parser.get_parsed_content(name) for name in ("network_def", "discriminator_def"))
    assert sum(p.numel() for p in generator.parameters()) == 182_546_755
    assert sum(p.numel() for p in discriminator.parameters()) == 5_603_202
    local = ConfigParser()
    local.read_config(folder / "configs" / "train.json")
    local.update({"architecture": "pix2pixhd_local", "channels": 1, "num_downs": 1, "num_blocks": 1})
    assert isinstance(local.get_parsed_content("network_def"), LocalEnhancer)
    inference = ConfigParser()
    inference.read_config(folder / "configs" / "inference.json")
    assert inference.get("network_def") == parser.get("network_def")


def test_perceptual_loss_comes_from_a_local_file(folder: Path, cohort: Path, tmp_path: Path) -> None:
    convs = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
    widths = [3, *([2] * len(convs))]
    state = {}
    for k, place in enumerate(convs):
        state[f"features.{place}.weight"] = torch.randn(widths[k + 1], widths[k], 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(widths[k + 1])
    torch.save(state, tmp_path / "vgg19.pth")
    options = {"channels": 2, "num_downs": 1, "num_blocks": 1, "discriminator_channels": 2, "device": "cpu"}
    parser = read(folder, cohort, tmp_path, vgg_weights=str(tmp_path / "vgg19.pth"), **options)
    assert isinstance(parser.get_parsed_content("perceptual"), VGGPerceptualLoss)
    objective = parser.get_parsed_content("objective")
    item = parser.get_parsed_content("train#dataset")[0]
    batch = {key: item[key][None] for key in ("condition", "target")}
    terms = objective.losses("generator", batch, objective.generate(batch))
    assert terms["g_perceptual"].item() > 0


def test_metadata_follows_the_schema(folder: Path) -> None:
    file = folder / "configs" / "metadata.json"
    verify_metadata(meta_file=str(file), filepath=str(Path(__file__).with_name("meta_schema_20240725.json")))

"""What all bundles have in common, read from their files; each inherits these laws by being in the folder."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, verify_metadata

from monai_synth.checkpoints import is_same_setting

BUNDLES = sorted(path.parent.parent for path in Path(__file__).parents[2].glob("bundles/*/configs/train.json"))
# What turns the words of a command line into truth values; everything else would take "false" for true.
READS_WORDS = r"is_true\(@{0}\b|check=@{0}\b|(resume|overwrite)=@{0}\b|compile_player\(.*, @{0}\)"
SECTIONS = {
    "_desc_", "imports", "bundle_root", "manifest", "dataset_dir", "output_dir", "ckpt_dir", "cache_dir", "roles",
    "fold", "intensity", "epochs", "batch_size", "patch_size", "learning_rate", "val_interval", "precision",
    "evaluation_precision", "accumulation_steps", "clip_norm", "num_workers", "seed", "save_interval", "check",
    "resume", "initial_weights", "compile", "patience", "player_intervals", "overwrite", "device", "network_def",
    "network", "discriminator_def", "discriminator", "objective", "optimizers", "cohort", "record", "train",
    "validate", "initialize", "run", "training",
}  # fmt: skip


def read(bundle: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_a_bundle_for_each_system() -> None:
    assert {
        "cell_pix2pix",
        "ct_oasis",
        "lesion_pix2pix",
        "lesion_pix2pixhd",
        "lgg_pix2pixhd",
        "mr_to_ct_cut",
        "mr_to_ct_pix2pix",
        "mr_usis",
    } <= {path.name for path in BUNDLES}


def test_a_bundle_is_complete(bundle: Path) -> None:
    for name in ("evaluate.json", "inference.json", "multi_gpu_train.json", "metadata.json", "logging.conf"):
        assert (bundle / "configs" / name).is_file(), name
    assert (bundle / "docs" / "README.md").is_file()
    for file in ("LICENSE", "configs/logging.conf"):
        assert (bundle / file).read_bytes() == (bundle.parent / "mr_to_ct_pix2pix" / file).read_bytes(), file


def test_sections_are_called_alike(bundle: Path) -> None:
    train = read(bundle, "train")
    assert set(train) >= SECTIONS
    assert train["training"] == "%run"
    assert read(bundle, "evaluate")["evaluating"] == "%run"
    assert read(bundle, "inference")["inference"] == "%run"
    assert train["record"]["name"] == bundle.name


def test_switches_understand_the_words_of_a_command_line(bundle: Path) -> None:
    for name in ("train", "evaluate", "inference"):
        lines = (bundle / "configs" / f"{name}.json").read_text(encoding="utf-8").splitlines()
        known = {**read(bundle, "train"), **read(bundle, name)}
        switches = [key for key, value in known.items() if isinstance(value, bool)]
        for switch in switches:
            uses = [line.strip() for line in lines if re.search(rf"@{switch}\b", line)]
            assert [use for use in uses if not re.search(READS_WORDS.format(switch), use)] == [], (name, switch)


def test_all_that_is_named_exists(bundle: Path) -> None:
    def targets(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
            return own + [target for value in node.values() for target in targets(value)]
        return [target for value in node for target in targets(value)] if isinstance(node, list) else []

    for name in ("train", "evaluate", "inference", "multi_gpu_train"):
        for target in targets(read(bundle, name)):
            if "." in target and not target.startswith("$"):
                module, _, attribute = target.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), (name, target)


def test_images_of_label_maps_are_not_brought_back_by_nearest_neighbour(bundle: Path) -> None:
    for name in ("train", "evaluate", "inference"):
        text = (bundle / "configs" / f"{name}.json").read_text(encoding="utf-8")
        if "OneHotd" in (bundle / "configs" / "inference.json").read_text(encoding="utf-8"):
            assert '"Invertd"' not in text, f"{name}: use monai_synth.transforms.InvertSmoothlyd"


def test_what_evaluation_and_inference_compare_was_recorded(bundle: Path) -> None:
    recorded = set(read(bundle, "train")["record"]["settings"])
    for name in ("evaluate", "inference"):
        settings = set(read(bundle, name).get("settings", {})) - {"_desc_"}
        assert settings <= recorded, f"{name}: {settings - recorded} are compared with nothing"


def test_labels_are_compared_with_the_order_of_their_channels(bundle: Path) -> None:
    if "labels" not in read(bundle, "train"):
        pytest.skip("no labels")
    classes = {"air": [0], "body": [7]} if bundle.name == "mr_usis" else {"0": "air", "7": "body"}
    numbers = classes if bundle.name == "mr_usis" else {0: "air", 7: "body"}
    for name, place in (("train", "record#settings"), ("evaluate", "settings"), ("inference", "settings")):
        files = [str(bundle / "configs" / f"{each}.json") for each in ("train", name)]
        settings = []
        for labels in (classes, numbers, dict(reversed(classes.items()))):
            parser = ConfigParser()
            parser.read_config(files if name == "evaluate" else files[-1])
            parser.update({"labels": labels})
            settings.append(parser.get_parsed_content(f"{place}#labels"))
        text, number, turned = settings
        assert is_same_setting(text, number), name
        assert not is_same_setting(text, turned), name


def test_a_resume_gets_back_all_that_moves(bundle: Path) -> None:
    train = read(bundle, "train")
    parts = set(train["train"]["checkpoint"]["parts"])
    optimizers = {f"{player}_optimizer" for player in train["optimizers"]}
    schedules = {f"{player}_schedule" for player in train.get("lr_schedulers", {})}
    assert optimizers | schedules | {"generator", "discriminator", "ema", "best", "early_stop", "history"} <= parts


def test_metadata_follows_the_schema(bundle: Path) -> None:
    verify_metadata(
        meta_file=str(bundle / "configs" / "metadata.json"),
        filepath=str(Path(__file__).with_name("meta_schema_20240725.json")),
    )
    assert (bundle / "configs" / "metadata.json").read_text(encoding="utf-8").isascii()


def test_the_readme_of_the_repository_names_the_bundle(bundle: Path) -> None:
    assert f"](bundles/{bundle.name}/docs/README.md)" in (bundle.parent.parent / "README.md").read_text(
        encoding="utf-8"
    )

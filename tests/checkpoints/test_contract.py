"""A model is used as it was trained."""

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from monai_synth.checkpoints import read_record, refuse_other_contract, require_writable
from monai_synth.data import LabelTable, Percentiles, Window
from monai_synth.data.intensity import to_dict
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks import build
from monai_synth.networks.structure import fingerprint

CONTRACT = {"condition": Percentiles(0.5, 99.5), "target": Window(-1024, 2000)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    record = {"intensity": {key: to_dict(value) for key, value in CONTRACT.items()}, "spacing_mm": [1, 1, 2.5]}
    record["settings"] = {"channels": 16}
    (tmp_path / "model.json").write_text(json.dumps(record))
    return tmp_path / "model.pt"


def test_the_trained_contract_passes(model: Path) -> None:
    refuse_other_contract(model, CONTRACT, spacing_mm=[1, 1, 2.5])


def test_another_window_is_refused_with_the_option_that_gives_the_trained_one(model: Path) -> None:
    other = {**CONTRACT, "target": Window(-1024, 3000)}
    with pytest.raises(ConfigError, match=r"trained values: --intensity#target#high 2000"):
        refuse_other_contract(model, other, spacing_mm=[1, 1, 2.5])


def test_another_spacing_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"trained at spacing_mm = \[1, 1, 2.5\], but would be used at None"):
        refuse_other_contract(model, CONTRACT)


def test_a_model_without_a_record_is_not_checked(tmp_path: Path) -> None:
    assert read_record(tmp_path / "model.pt") == {}
    refuse_other_contract(tmp_path / "model.pt", CONTRACT)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"intensity": ')
    with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
        read_record(tmp_path / "model.pt")


def test_a_folder_is_made_or_refused_before_anything_is_computed(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Give a folder of yours with --output_dir"):
        require_writable(tmp_path / "file" / "folder")


def test_another_width_is_refused_with_the_option(model: Path) -> None:
    refuse_other_contract(model, CONTRACT, spacing_mm=[1, 1, 2.5], settings={"channels": 16, "num_neighbours": 0})
    with pytest.raises(ConfigError, match="trained with channels = 16, but would be built with 64. Give --channels 16"):
        refuse_other_contract(model, CONTRACT, spacing_mm=[1, 1, 2.5], settings={"channels": 64})


def test_a_setting_of_no_value_is_named_as_the_command_line_takes_it(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"settings": {"longest_side": None}, "spacing_mm": None}))
    with pytest.raises(ConfigError, match=r"Give --longest_side '\$None'"):
        refuse_other_contract(tmp_path / "model.pt", {}, settings={"longest_side": 256})
    with pytest.raises(ConfigError, match=r"Give --spacing_mm '\$None'"):
        refuse_other_contract(tmp_path / "model.pt", {}, spacing_mm=[1, 1, 1])


def test_a_setting_that_is_no_option_has_a_remedy_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"settings": {"use_instances": True}}))
    remedies = {"use_instances": "Give the maps as --instances_dir."}
    with pytest.raises(ConfigError, match=r"built with False\. Give the maps as --instances_dir\.$"):
        refuse_other_contract(tmp_path / "model.pt", {}, settings={"use_instances": False}, remedies=remedies)
    refuse_other_contract(tmp_path / "model.pt", {}, settings={"use_instances": True}, remedies=remedies)


def _model_with(folder: Path, **settings: Any) -> Path:
    (folder / "model.json").write_text(json.dumps({"settings": settings}))
    return folder / "model.pt"


def test_labels_are_compared_with_their_order_however_they_are_given(tmp_path: Path) -> None:
    labels = {0: "background", 255: "lesion"}
    model = _model_with(tmp_path, labels=LabelTable.of(labels).to_dict())
    table = tmp_path / "labels.csv"
    table.write_text("id,name\n0,background\n255,lesion\n")
    for given in ({"0": "background", "255": "lesion"}, table, [(0, "background"), (255, "lesion")]):
        same = LabelTable(given) if isinstance(given, list) else LabelTable.of(given)
        refuse_other_contract(model, {}, settings={"labels": same.to_dict()})
    turned = LabelTable.of(dict(reversed(labels.items()))).to_dict()
    with pytest.raises(ConfigError) as caught:
        refuse_other_contract(model, {}, settings={"labels": turned})
    message = str(caught.value)
    assert "labels = 0 background, 255 lesion, but would be built with 255 lesion, 0 background." in message
    assert "Their order is that of the network's channels." in message
    option, value = shlex.split(message[message.index("--labels") :].removesuffix("."))
    assert (option, LabelTable.of(ast.literal_eval(value)).to_dict()) == ("--labels", LabelTable(labels).to_dict())


@pytest.mark.parametrize("names", [["background", "lesion"], ["background", 'Crohn\'s "fat"']])
def test_the_way_out_gives_the_trained_labels(tmp_path: Path, names: list[str]) -> None:
    trained = LabelTable.from_names(names, unknown_id=255)
    model = _model_with(tmp_path, labels=trained.to_dict())
    with pytest.raises(ConfigError, match="255 unknown, but would be built with 0 a, 1 b. Give --labels ") as caught:
        refuse_other_contract(model, {}, settings={"labels": LabelTable.from_names("ab").to_dict()})
    message = str(caught.value)
    (value,) = shlex.split(message[message.index("--labels ") + len("--labels ") :].removesuffix("."))
    assert LabelTable.of(ast.literal_eval(value)) == trained


def test_classes_of_merged_ids_are_compared_with_their_order(tmp_path: Path) -> None:
    classes = {"background": [0, 24], "brain": [2, 3]}
    model = _model_with(tmp_path, labels=classes, channels=[1, 2])
    refuse_other_contract(model, {}, settings={"labels": {"background": (0, 24), "brain": (2, 3)}, "channels": (1, 2)})
    with pytest.raises(ConfigError, match=r"order is that of the network's channels\. Give --labels \"{'background'"):
        refuse_other_contract(model, {}, settings={"labels": dict(reversed(classes.items()))})
    with pytest.raises(ConfigError, match=r"would be built with {'background': \[0\], 'brain': \[2, 3\]}\. Give"):
        refuse_other_contract(model, {}, settings={"labels": {**classes, "background": [0]}})


def test_another_generator_of_the_same_weights_is_refused(tmp_path: Path) -> None:
    trained = build("resnet", channels=2)
    record = {"networks": {"generator": {"fingerprint": fingerprint(trained)}}}
    (tmp_path / "model.json").write_text(json.dumps(record))
    refuse_other_contract(tmp_path / "model.pt", {}, network=trained)
    with pytest.raises(ConfigError, match="another generator than network_def describes"):
        refuse_other_contract(tmp_path / "model.pt", {}, network=build("resnet", channels=2, padding="replicate"))


def test_a_record_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_record(tmp_path / "model.pt")

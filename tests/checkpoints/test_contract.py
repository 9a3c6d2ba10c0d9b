"""A model is used as it was trained."""

import json
from pathlib import Path

import pytest

from monai_synth.checkpoints import read_record, refuse_other_contract, require_writable
from monai_synth.data import Percentiles, Window
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

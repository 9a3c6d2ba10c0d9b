"""Misspelt options are not taken for new values."""

import json
from pathlib import Path

import pytest

from monai_synth.engines import refuse_unknown_options
from monai_synth.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    train = {"epochs": 1, "train": {"trainer": {}}, "learning_rate": 1, "norm": "instance", "width": "$2 * @epochs"}
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "more.json").write_text(json.dumps({"split": "test", "+imports": []}))
    return tmp_path


def test_options_of_configs_and_of_monai_pass(config: Path) -> None:
    one = ["run", "training", "--config_file", str(config / "train.json"), "--epochs", "3", "--train#trainer#x", "1"]
    refuse_unknown_options([*one, "--tracking", "mlflow", "--bundle_root", "."])
    both = f"['{config / 'train.json'}','{config / 'more.json'}']"
    refuse_unknown_options(["run", f"--config_file={both}", "--split=val", "--+imports", "[]"])


@pytest.mark.parametrize(
    ("option", "hint"), [("--epoch", "Did you mean --epochs"), ("--zzz", "There are: epochs, learning")]
)
def test_a_misspelt_option_is_named_with_the_nearest(config: Path, option: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} is no option of this bundle. {hint}"):
        refuse_unknown_options(["run", "--config_file", str(config / "train.json"), option, "3"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--learning_rate", "null"],
        ["--learning_rate=null"],
        ["--learning_rate", "None"],
        ["--width", "none"],
        ["--norm", "None"],
        ["--train#trainer", "Null"],
    ],
)
def test_no_value_is_given_in_the_one_way_that_arrives(config: Path, arguments: list[str]) -> None:
    run = ["run", "--config_file", str(config / "train.json")]
    option = arguments[0].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"For no value at all give {option} '\$None', in single quotes"):
        refuse_unknown_options([*run, *arguments, "--epochs", "2"])
    refuse_unknown_options([*run, option, "$None", "--epochs", "2"])


def test_none_may_be_the_name_of_a_norm(config: Path) -> None:
    run = ["run", "--config_file", str(config / "train.json")]
    refuse_unknown_options([*run, "--norm", "none", "--train#trainer#norm", "none", "--epochs"])


def test_other_programs_and_configs_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    refuse_unknown_options()  # this process is pytest
    refuse_unknown_options(["run", "--config_file", str(tmp_path / "train.yaml"), "--anything", "1"])

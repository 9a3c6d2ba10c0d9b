"""Tables of an evaluation, for any scores; a model is not tested on the patients it has seen."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ignite.engine import Engine

from monai_synth.engines import EvaluationTables, refuse_leakage
from monai_synth.errors import ConfigError, LeakageError

RECORD = {"manifest": {"patients": {"train": ["a", "b"], "val": ["c"], "test": ["d"]}}}


@pytest.mark.parametrize(
    ("patients", "split"),
    [(["d", "e"], "test"), (["c"], "val"), (["a"], "train"), (["a", "c"], "train"), (["x"], "other")],
)
def test_patients_that_may_be_evaluated(patients: list[str], split: str) -> None:
    refuse_leakage(RECORD, patients, split=split)


@pytest.mark.parametrize(
    ("patients", "split", "role"),
    [(["d", "a"], "test", "train"), (["c"], "test", "val"), (["b"], "val", "train"), (["a"], "other", "train")],
)
def test_patients_that_may_not(patients: list[str], split: str, role: str) -> None:
    with pytest.raises(LeakageError, match=f"belonged to the model's '{role}' patients .*--split {role}"):
        refuse_leakage(RECORD, patients, split=split)


def test_a_model_without_a_record_cannot_be_checked() -> None:
    refuse_leakage({}, ["a"], split="test")


CASES = [
    {"patient_id": "P1", "case_id": "d", "condition": "/c/d.png", "target": "/t/d.png"},
    {"patient_id": "P2", "case_id": "e", "condition": "/c/e.png", "target": "/t/e.png"},
]
COLUMNS = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]


class _Scores:
    key_metric = "mae"

    @property
    def units(self) -> dict[str, str]:
        return {"mae": "grey levels", "psnr_db": "dB"}

    @property
    def table(self) -> pd.DataFrame:
        rows = [(method, case["patient_id"], case["case_id"]) for case in CASES for method in ("model", "mean_colour")]
        table = pd.DataFrame(rows, columns=["method", "patient_id", "case_id"])
        return table.assign(mae=[10.0, 20.0, 12.0, 30.0], psnr_db=25.0)

    def describe(self) -> dict[str, Any]:
        return {"unit": "grey levels", "scored_inside": None}


class _Distance:
    key_metric = "texture_kid"

    @property
    def summary(self) -> pd.DataFrame:
        return pd.DataFrame([["model", "texture_kid", "", 2, 0.5, float("nan"), float("nan")]], columns=COLUMNS)

    def describe(self) -> dict[str, Any]:
        return {"num_reference": 7}


def _evaluate(folder: Path, scores: Any, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    (folder / "model.json").write_text(json.dumps({"epoch": 3, **RECORD}))
    (folder / "model.pt").touch()
    settings = {"cases": CASES, "split": "test", "checkpoint": folder / "model.pt", "predictions": "/p", **options}
    engine = Engine(lambda *_: None)
    EvaluationTables(scores, folder, **settings).attach(engine)
    engine.run([0])
    tables = [pd.read_csv(folder / name, keep_default_na=False) for name in ("cases.csv", "summary.csv")]
    return tables[0], tables[1], json.loads((folder / "evaluation.json").read_text())


def test_scores_of_pictures_are_written_in_their_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"suffix": ".png", "distribution": [_Distance()], "key_metric": "texture_kid"}
    cases, summary, about = _evaluate(tmp_path, _Scores(), **options)
    assert list(cases["prediction"]) == ["/p/d.png", "", "/p/e.png", ""]
    assert list(cases["target"]) == ["/t/d.png"] * 2 + ["/t/e.png"] * 2
    assert list(summary["metric"]) == ["mae", "psnr_db", "mae", "psnr_db", "texture_kid"]
    assert list(summary["unit"]) == ["grey levels", "dB", "grey levels", "dB", ""]
    assert list(summary["mean"].astype(float)) == [11, 25, 25, 25, 0.5]
    assert (about["key_metric"], about["unit"], about["epoch"]) == ("texture_kid", "grey levels", 3)
    assert about["distribution"] == {"texture_kid": {"num_reference": 7}}
    printed = capsys.readouterr().out
    assert "model: mae 11.0 grey levels (no interval; n = 2 patients)" in printed
    assert "model: texture_kid 0.50 (no interval; n = 2 patients)" in printed


def test_without_targets_the_cases_are_listed(tmp_path: Path) -> None:
    unpaired = [{key: value for key, value in case.items() if key != "target"} for case in CASES]
    options = {"cases": unpaired, "suffix": ".png", "distribution": [_Distance()]}
    cases, summary, about = _evaluate(tmp_path, None, **options)
    assert list(cases.columns) == [
        *("method", "patient_id", "case_id", "split"),
        *("condition", "target", "mask", "prediction"),
    ]
    expected = ["model", "P1", "d", "test", "/c/d.png", "", "", "/p/d.png"]
    assert cases.iloc[0].tolist() == expected
    assert list(summary["metric"]) == ["texture_kid"]
    assert about["key_metric"] == "texture_kid"


def test_nothing_scored_still_lists_the_cases(tmp_path: Path) -> None:
    cases, summary, about = _evaluate(tmp_path, None)
    assert list(cases["prediction"]) == ["/p/d.nii.gz", "/p/e.nii.gz"]
    assert list(summary.columns) == COLUMNS
    assert about["key_metric"] is None


@pytest.mark.parametrize("scores", [None, _Scores()])
def test_leakage_is_refused_before_anything_is_written(scores: Any, tmp_path: Path) -> None:
    seen = [{**CASES[0], "patient_id": "a"}]
    with pytest.raises(LeakageError, match="may not be tested"):
        _evaluate(tmp_path, scores, cases=seen)
    assert not (tmp_path / "cases.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"), [({"suffix": "png"}, "suffix='png'"), ({"key_metric": "dice"}, "key_metric='dice'")]
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        _evaluate(tmp_path, _Scores(), **options)

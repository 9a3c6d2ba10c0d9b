import json

import numpy as np
import pandas as pd
import pytest

from monai_synth.reports import headline
from monai_synth.reports.run_folder import read_run
from monai_synth.reports.verdict import judge

SMALL = {"shape": (21, 19, 1)}
SEVEN = [f"P{number}" for number in range(7)]


def test_a_model_that_beats_the_baselines(make_run):
    folder = make_run(case_ids=SEVEN, **SMALL)
    verdict = judge(read_run(folder))
    summary = pd.read_csv(folder / "evaluation" / "summary.csv").set_index(["method", "metric"])["mean"]
    model, baseline = summary["model", "mae_hu"], summary["mean_target_by_condition", "mae_hu"]
    assert verdict.outcome == "better"
    assert "mean target by condition" in verdict.sentence
    assert f"Model / baseline = {model / baseline:.2f}" in verdict.sentence
    assert "lower in 7 of 7 patients" in verdict.sentence
    assert any("Only 7 patients" in warning for warning in verdict.warnings)


def test_a_model_that_does_not_beat_them_is_told_so(make_run):
    verdict = judge(read_run(make_run(is_good=False, case_ids=SEVEN, **SMALL)))
    assert verdict.outcome == "worse"
    assert verdict.sentence.startswith("The model does not beat the best baseline.")
    assert "lower in 0 of 7 patients" in verdict.sentence


def test_few_patients_show_no_difference(make_run):
    verdict = judge(read_run(make_run(**SMALL)))
    assert verdict.outcome == "open"
    assert "3 patients with both cannot show a difference" in verdict.sentence


def test_a_difference_that_may_be_zero_is_open(make_run):
    folder = make_run(case_ids=SEVEN, **SMALL)
    file = folder / "evaluation" / "cases.csv"
    cases = pd.read_csv(file)
    is_model = cases["method"] == "model"
    best = cases.loc[cases["method"] == "mean_target_by_condition", "mae_hu"].to_numpy()
    cases.loc[is_model, "mae_hu"] = best + np.array([-20, 18, -17, 19, -21, 16, -3])
    cases.to_csv(file, index=False)
    verdict = judge(read_run(folder))
    assert verdict.outcome == "open"
    assert "does not exclude 0" in verdict.sentence


@pytest.mark.parametrize(("split", "words"), [("train", "Training patients: not a test"), ("val", "optimistic")])
def test_other_splits_are_no_test(make_run, split, words):
    verdict = judge(read_run(make_run(split=split, **SMALL)))
    assert any(words in warning for warning in verdict.warnings)


def test_trained_patients_behind_the_name_test_are_found(make_run):
    folder = make_run(**SMALL)
    record = json.loads((folder / "run.json").read_text())
    record["manifest"]["patients"]["train"].append("P02")
    (folder / "run.json").write_text(json.dumps(record))
    warnings = judge(read_run(folder)).warnings
    assert any("1 of 3 evaluated patients (first: P02) were trained on" in warning for warning in warnings)


def test_no_baseline_is_no_yardstick(make_run):
    folder = make_run(has_baselines=False, **SMALL)
    assert "no yardstick" in judge(read_run(folder)).sentence
    assert "no yardstick" in headline(folder)[1]


def test_headline_gives_each_number_with_unit_interval_and_n(make_run):
    folder = make_run(shape=(21, 19, 9))
    first, second, third = headline(folder)
    assert first.startswith("model, test split: masked MAE ")
    assert second.startswith("best baseline, mean target by condition: masked MAE ")
    assert "model / baseline = 0." in second
    for line, numbers in ((first, 1), (second, 1), (third, 2)):
        assert line.count("95 % CI") == numbers
        assert line.count("n = 3 patients") == numbers
    assert " HU (" in first
    assert " dB (" in third
    assert (first + second + third).isascii()
    assert "not a test" in headline(make_run("again", split="train", **SMALL))[0]


def test_headline_without_evaluation_gives_the_command(make_run):
    folder = make_run(**SMALL)
    (folder / "evaluation" / "summary.csv").unlink()
    lines = headline(folder)
    assert len(lines) == 3
    assert "not evaluated" in lines[0]
    assert "configs/evaluate.json" in lines[1]
    assert "epoch " in lines[2]


def test_an_evaluation_of_an_earlier_model_is_said_to_be_one(make_run):
    folder = make_run()
    (folder / "models").mkdir(exist_ok=True)
    about = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    about |= {"model_created": "2025-01-01T00:00:00+00:00"}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(about))
    record = {"created": "2025-01-01T00:00:00+00:00", "epoch": about["epoch"]}
    (folder / "models" / "model.json").write_text(json.dumps(record))
    assert not any("earlier model" in warning for warning in judge(read_run(folder)).warnings)
    (folder / "models" / "model.json").write_text(json.dumps(record | {"epoch": about["epoch"] + 5}))
    assert any("earlier model" in warning for warning in judge(read_run(folder)).warnings)

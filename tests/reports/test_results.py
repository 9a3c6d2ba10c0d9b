import numpy as np
import pandas as pd

from monai_synth.reports.results import case_numbers, cases_table, results_table, worst_first
from monai_synth.reports.run_folder import read_run


def summary_of(*rows):
    return pd.DataFrame(rows, columns=["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"])


def test_model_first_then_baselines_by_mae():
    table = results_table(
        summary_of(
            ("far", "mae_hu", "HU", 4.0, 300.0, 280.0, 320.0),
            ("near", "mae_hu", "HU", 4.0, 100.0, 90.0, 110.0),
            ("model", "mae_hu", "HU", 4.0, 200.0, 150.0, 260.0),
        )
    )
    assert [name for name, _, _ in table.rows] == ["model", "near", "far"]
    assert table.header[1] == ("MAE", "HU", "lower")
    assert (table.rows[0][1][1].value, table.rows[0][1][1].below) == ("200.0", "150.0 to 260.0")
    assert table.footnotes == []


def test_a_missing_number_is_a_dash_with_a_reason():
    nan = float("nan")
    table = results_table(
        summary_of(
            ("model", "mae_hu", "HU", 4.0, 60.0, 50.0, 70.0),
            ("model", "ssim", "1", 0.0, nan, nan, nan),
            ("model", "mae_bone_hu", "HU", 1.0, 200.0, nan, nan),
        )
    )
    _, mae, ssim, bone = table.rows[0][1]
    assert (mae.note, ssim.value, ssim.note) == ("", "–", "a")
    assert bone.value == "200.0"
    assert bone.below == "– (n = 1)"
    assert bone.note == "bc"
    reasons = dict(table.footnotes)
    assert "window" in reasons["a"]
    assert reasons["b"] == "no interval from fewer than 5 patients"
    assert "bone" in reasons["c"]


def test_cases_are_sorted_worst_first_with_the_baseline_beside(make_run):
    folder = make_run(case_ids=["A", "B", "C"], shape=(21, 19, 1))
    cases = read_run(folder).cases
    cases.loc[(cases["method"] == "model") & (cases["case_id"] == "C"), "mae_hu"] = np.nan
    assert list(worst_first(cases)["case_id"]) == ["B", "A", "C"]
    table = cases_table(cases, baseline="body_as_water", limit=2)
    assert [name for name, _, _ in table.rows] == ["B", "A"]
    water = cases[(cases["method"] == "body_as_water") & (cases["case_id"] == "B")]["mae_hu"].item()
    assert table.rows[0][1][-1].value == f"{water:.1f}"


def test_numbers_of_a_case_give_the_reason_for_a_dash():
    text = case_numbers({"method": "model", "case_id": "A", "mae_hu": 61.25, "ssim": float("nan")})
    assert text.startswith("MAE 61.2 HU, SSIM – (")
    assert "0.000" not in text

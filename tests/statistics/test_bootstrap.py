import numpy as np
import pandas as pd
import pytest

from monai_synth.errors import ConfigError
from monai_synth.statistics.bootstrap import (
    Interval,
    bootstrap_mean,
    format_interval,
    paired_difference,
    summarise,
    unit_of,
    values_by_patient,
)


def cohort(n, *, seed=0):
    values = np.random.default_rng(seed).gamma(4, 15, n)
    return {f"P{index:03d}": float(value) for index, value in enumerate(values)}


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_interval_covers_the_truth_about_as_often_as_it_says(method):
    truth = 4 * 15
    hits = [
        interval.low <= truth <= interval.high
        for interval in (
            bootstrap_mean(cohort(40, seed=seed), num_resamples=300, method=method, seed=seed) for seed in range(200)
        )
    ]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_width_is_that_of_the_standard_error():
    values = cohort(400)
    interval = bootstrap_mean(values)
    standard_error = np.std(list(values.values()), ddof=1) / 20
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert interval.low < interval.mean < interval.high
    assert interval.n == 400


def test_cases_of_a_patient_do_not_narrow_the_interval():
    values = cohort(12)
    repeated = {patient: [value] * 50 for patient, value in values.items()}
    first, second = bootstrap_mean(repeated), bootstrap_mean(values)
    assert (first.low, first.mean, first.high) == pytest.approx((second.low, second.mean, second.high), rel=1e-12)
    assert first.n == 12


def test_cases_are_averaged_per_patient_first():
    assert bootstrap_mean({"A": [20, 60], "B": 10}).mean == 25


def test_same_seed_same_interval():
    values = cohort(9)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_nan_is_dropped_and_counted():
    values = cohort(9)
    with_nan = values | {"X": float("nan"), "Y": [float("nan"), float("nan")], "P000": [values["P000"], float("nan")]}
    interval, expected = bootstrap_mean(with_nan), bootstrap_mean(values)
    assert (interval.n, interval.num_dropped) == (9, 2)
    assert (interval.mean, interval.low, interval.high) == (expected.mean, expected.low, expected.high)


def test_confidence_widens():
    values = cohort(20)
    wide, narrow = bootstrap_mean(values, confidence=0.99), bootstrap_mean(values, confidence=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("values", [{"A": 3.0}, {"A": 3.0, "B": float("inf")}])
def test_no_interval_without_spread_to_draw_from(values):
    interval = bootstrap_mean(values)
    assert interval.mean == np.mean(list(values.values()))
    assert np.isnan([interval.low, interval.high]).all()


def test_nobody():
    interval = bootstrap_mean({"A": float("nan")})
    assert (interval.n, interval.num_dropped) == (0, 1)
    assert np.isnan([interval.mean, interval.low, interval.high]).all()


def test_equal_patients_have_an_interval_of_no_width():
    interval = bootstrap_mean(dict.fromkeys("ABCDE", 7.0))
    assert (interval.mean, interval.low, interval.high) == (7, 7, 7)


def test_few_patients_give_a_mean_but_no_interval():
    few = bootstrap_mean({"A": 10.0, "B": 30.0, "C": 20.0, "D": 20.0})
    assert (few.mean, few.n) == (20, 4)
    assert np.isnan([few.low, few.high]).all()
    enough = bootstrap_mean({"A": 10.0, "B": 30.0, "C": 20.0, "D": 20.0, "E": 15.0})
    assert 10 <= enough.low < 19 < enough.high <= 30


def test_pairing_removes_what_makes_a_patient_hard():
    baseline = cohort(15)
    model = {patient: value - 5 + 0.1 * index for index, (patient, value) in enumerate(baseline.items())}
    difference = paired_difference(model, baseline)
    assert difference.mean == pytest.approx(-4.3)
    assert difference.high < 0
    alone = bootstrap_mean(model)
    assert difference.high - difference.low < 0.1 * (alone.high - alone.low)


def test_pairs_need_both_methods():
    difference = paired_difference({"A": 1.0, "B": 2.0, "C": float("nan")}, {"B": 5.0, "C": 1.0, "D": 1.0})
    assert (difference.mean, difference.n, difference.num_dropped) == (-3, 1, 3)
    with pytest.raises(ConfigError, match="none in common"):
        paired_difference({"A": 1.0}, {"B": 1.0})


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "method": ["model", "model", "model", "body_as_water"],
            "patient_id": ["1", "2", "2", "1"],
            "case_id": ["a", "b", "c", "a"],
            "fold": [0, 1, 1, 0],
            "mae_hu": [10.0, 20.0, 60.0, 300.0],
            "psnr_db": [30.0, 28.0, 26.0, 17.0],
            "ssim": [np.nan, np.nan, np.nan, np.nan],
            "prediction": ["x", "y", "z", ""],
        }
    )


def test_summary_of_a_table(table):
    summary = summarise(table)
    assert list(summary.columns) == ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
    assert summary["method"].tolist() == ["model"] * 3 + ["body_as_water"] * 3
    assert summary["metric"].tolist() == ["mae_hu", "psnr_db", "ssim"] * 2
    assert summary["unit"].tolist() == ["HU", "dB", ""] * 2
    assert summary["n"].tolist() == [2, 2, 0, 1, 1, 0]
    assert summary["mean"][0] == 25
    assert summary["ci_low"].isna().all()
    assert summarise(table[:0]).empty


def test_values_by_patient(table):
    assert values_by_patient(table, "mae_hu") == {"1": [10], "2": [20, 60]}
    assert values_by_patient(table, "mae_hu", method="body_as_water") == {"1": [300]}
    with pytest.raises(ConfigError, match="body_as_water"):
        values_by_patient(table, "mae_hu", method="histogram_match")
    with pytest.raises(ConfigError, match="no column 'dice'"):
        values_by_patient(table, "dice")


def test_text_of_an_interval():
    interval = Interval(61.6, 55.0, 70.1, 8)
    assert format_interval(interval, name="MAE", unit="HU") == "MAE 61.6 HU (95 % CI 55.0 to 70.1; n = 8 patients)"
    assert format_interval(Interval(0.8953, 0.87, 0.91, 8, confidence=0.9), name="SSIM") == (
        "SSIM 0.895 (90 % CI 0.870 to 0.910; n = 8 patients)"
    )
    nan = float("nan")
    assert format_interval(Interval(5, nan, nan, 1), name="MAE", unit="HU") == "MAE 5.0 HU (no interval; n = 1 patient)"
    assert format_interval(Interval(nan, nan, nan, 0), name="SSIM") == "SSIM not available (n = 0 patients)"


def test_units():
    names = ["mae_hu", "psnr_db", "ssim", "ssim_2d", "hd95_mm", "dose_gy", "hu"]
    assert [unit_of(name) for name in names] == ["HU", "dB", "", "", "mm", "Gy", ""]


@pytest.mark.parametrize("arguments", [{"num_resamples": 0}, {"confidence": 95}, {"method": "bca"}])
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        bootstrap_mean(cohort(5), **arguments)

import math

import pytest

from monai_synth.reports.quantities import Estimate, number, quantity, with_unit


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (61.25, 1, "61.2"),
        (-3.0, 1, "−3.0"),
        (-0.01, 1, "0.0"),
        (math.nan, 1, "–"),
        (math.inf, 2, "∞"),
        (-math.inf, 2, "−∞"),
    ],
)
def test_numbers_have_a_true_minus_and_no_false_zero(value, decimals, text):
    assert number(value, decimals) == text


def test_metrics_carry_label_and_unit():
    assert quantity("mae_soft_tissue_hu").label == "MAE soft tissue"
    assert with_unit(30.123, "psnr_db") == "30.12 dB"
    assert with_unit(0.9, "ssim") == "0.900"
    assert with_unit(math.nan, "mae_hu") == "–"
    assert with_unit(1.5, "gamma_pass", unit="%") == "1.500 %"


def test_an_estimate_says_unit_interval_and_n():
    assert (
        str(Estimate("m", "mae_hu", "HU", 14, 61.25, 50.0, 70.3)) == "61.2 HU (95 % CI 50.0 to 70.3; n = 14 patients)"
    )
    single = Estimate("m", "mae_hu", "HU", 1, 61.25, math.nan, math.nan)
    assert str(single) == "61.2 HU (no interval from fewer than 5 patients; n = 1 patient)"
    assert "no value (n = 0 patients; " in str(Estimate("m", "ssim", "1", 0, math.nan, math.nan, math.nan))

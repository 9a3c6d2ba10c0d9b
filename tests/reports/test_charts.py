import math

import numpy as np
import pandas as pd

from monai_synth.reports.charts import case_plot, learning_curves


def test_curves_take_any_loss_and_gaps(decode):
    history = pd.DataFrame(
        {"epoch": [1.0, 2, 3], "lr": 1e-4, "d_real": [0.5, 0.4, 0.3], "g_$odd_name$": [3.0, 2.0, math.nan]}
    )
    without = decode(learning_curves(history)).size
    history["val_mae_hu"] = [math.nan, 80.0, math.nan]
    assert decode(learning_curves(history, best_epoch=2)).size[0] > without[0]


def test_no_values_give_no_chart():
    assert learning_curves(pd.DataFrame({"epoch": [1.0], "lr": [1e-4], "val_mae_hu": [math.nan]})) is None
    assert case_plot({"model": [math.nan]}) is None
    assert case_plot({}) is None


def test_case_plot_grows_with_the_methods(decode):
    values = np.linspace(40, 90, 9)
    one = decode(case_plot({"model": [50.0]})).size
    three = decode(case_plot({"model": values, "a_$x$_b": values + 100, "none": [math.nan], "c": [3.0, math.inf]})).size
    assert three[1] > one[1]


def test_a_chart_is_the_same_every_time():
    values = {"model": [50.0, 60.0], "body_as_water": [100.0, 90.0]}
    assert case_plot(values) == case_plot(values)

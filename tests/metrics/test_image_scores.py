import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import MetaTensor
from monai.metrics import SSIMMetric
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from monai_synth.errors import ConfigError, GeometryError, IntensityError, LabelError, SynthError
from monai_synth.metrics import CaseScores, ImageScores, score_image

METRICS = ["mae", "rmse", "psnr_db", "ssim", "pearson"]


def make_pair(shape=(3, 31, 26), *, seed=0, noise=20.0):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0, 255, shape).astype(np.float32)
    return np.clip(target + rng.normal(size=shape) * noise, 0, 255).astype(np.float32), target


def make_item(patient_id, case_id, error):
    target = make_pair(seed=sum(map(ord, case_id)))[1]
    return {
        "target": torch.as_tensor(target),
        "pred": MetaTensor(target + error),
        "patient_id": patient_id,
        "case_id": case_id,
    }


ITEMS = [make_item("B", "B1", 10.0), make_item("A", "A1", 20.0), make_item("A", "A2", 60.0)]


@pytest.mark.parametrize("shape", [(1, 31, 26), (3, 31, 26), (2, 17, 15, 13)])
def test_scores_are_those_of_scikit_image_and_numpy(shape):
    x, y = make_pair(shape)
    scores = score_image(x, y, data_range=255)
    assert list(scores) == METRICS
    assert scores["mae"] == pytest.approx(np.abs(x.astype(float) - y).mean())
    assert scores["rmse"] == pytest.approx(math.sqrt(mean_squared_error(y, x)))
    assert scores["psnr_db"] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert scores["ssim"] == pytest.approx(structural_similarity(y, x, channel_axis=0, **settings), abs=1e-6)
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x, y, strict=True)]
    assert scores["pearson"] == pytest.approx(np.mean(correlations))


def test_ssim_is_that_of_monai():
    x, y = make_pair()
    metric = SSIMMetric(spatial_dims=2, data_range=255.0)
    expected = metric(torch.as_tensor(x)[None], torch.as_tensor(y)[None]).item()
    assert score_image(x, y, data_range=255)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_identical_and_inverted_images():
    _, y = make_pair()
    same, inverted = score_image(y, y, data_range=255), score_image(255 - y, y, data_range=255)
    assert (same["mae"], same["psnr_db"], same["ssim"]) == (0, math.inf, pytest.approx(1))
    assert (same["pearson"], inverted["pearson"]) == (pytest.approx(1), pytest.approx(-1))
    assert inverted["ssim"] < 0


def test_only_the_mask_counts():
    x, y = make_pair()
    mask = np.zeros((1, *y.shape[1:]))
    mask[:, 4:24, 3:20] = 255
    expected = score_image(x, y, mask=mask, data_range=255)
    inside = np.broadcast_to(mask > 0, y.shape)
    assert expected["mae"] == pytest.approx(np.abs(x[inside].astype(float) - y[inside]).mean())
    cropped = score_image(x[:, 4:24, 3:20], y[:, 4:24, 3:20], data_range=255)
    assert {k: v for k, v in expected.items() if k != "ssim"} == pytest.approx(
        {k: v for k, v in cropped.items() if k != "ssim"}
    )
    changed_x, changed_y = np.where(inside, x, np.nan), np.where(inside, y, 1e6)
    assert score_image(changed_x, changed_y, mask=mask, data_range=255) == expected
    assert score_image(x, y, data_range=255)["ssim"] != expected["ssim"]


def test_what_is_not_defined_is_nan():
    x, y = make_pair((1, 10, 40))
    assert math.isnan(score_image(x, y, data_range=255)["ssim"])  # the window has 11 pixels
    assert score_image(*make_pair((1, 11, 40)), data_range=255)["ssim"] > 0
    border = np.zeros((1, 30, 30))
    border[0, :, :5] = 1
    assert math.isnan(score_image(*make_pair((1, 30, 30)), mask=border, data_range=255)["ssim"])
    assert math.isnan(score_image(np.full_like(y, 0.1), y, data_range=255)["pearson"])


def test_a_slice_stored_as_a_volume_is_an_image():
    x, y = make_pair()
    assert score_image(x[..., None], y[..., None], data_range=255) == pytest.approx(score_image(x, y, data_range=255))


def test_mean_is_over_patients_and_all_scores_reach_the_engine():
    metric = ImageScores()
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "val_mae")
    state = engine.run([ITEMS[:2], ITEMS[2:]], max_epochs=1)
    assert state.metrics["val_mae"] == pytest.approx((10 + (20 + 60) / 2) / 2, rel=1e-5)
    assert set(state.metrics) == {"val_mae", *METRICS[1:]}
    assert list(metric.table.columns) == ["method", "patient_id", "case_id", *METRICS]
    assert metric.table["case_id"].tolist() == ["A1", "A2", "B1"]


def test_extra_methods_get_their_rows():
    def grey(item):
        return np.full(item["target"].shape, 127, np.float32)

    metric = ImageScores(extra_methods={"grey": grey})
    metric.update(ITEMS)
    rows = metric.table.set_index(["method", "case_id"])
    assert rows.loc[("grey", "B1"), "mae"] == pytest.approx((ITEMS[0]["target"] - 127).abs().mean().item(), rel=1e-5)
    assert metric.compute()["mae"] == pytest.approx(25, rel=1e-5)


def test_a_method_may_leave_out_the_only_channel():
    x, y = make_pair((1, 20, 21))
    metric = ImageScores(extra_methods={"flat": lambda item: x[0]}, mask_key="roi")
    roi = torch.ones(1, 20, 21)
    metric.update({"pred": x, "target": y, "roi": roi, "patient_id": 1, "case_id": 1})
    model, flat = metric.table[METRICS].to_numpy()
    np.testing.assert_array_equal(model, flat)


def test_units_and_description():
    metric = ImageScores(unit="a.u.", data_range=4.0, mask_key="mask")
    assert metric.units == {"mae": "a.u.", "rmse": "a.u.", "psnr_db": "dB", "ssim": "", "pearson": ""}
    described = metric.describe()
    assert (described["unit"], described["data_range"], described["scored_inside"]) == ("a.u.", 4.0, "mask")
    scores = CaseScores("synthrad2025", bins_hu={"lung": (None, -500)})
    assert scores.units == {"mae_hu": "HU", "me_hu": "HU", "psnr_db": "dB", "ms_ssim": "", "mae_lung_hu": "HU"}
    assert scores.describe() == {"preset": "synthrad2025", "bins_hu": {"lung": [None, -500]}}


def test_errors_name_the_case_and_the_rule():
    broken = make_item("A", "A7", 5.0)
    broken["pred"][1, 4, 4] = float("inf")
    with pytest.raises(IntensityError, match=r"Case 'A7', method 'model'.*prediction has 1 NaN or infinite"):
        ImageScores().update([broken])
    with pytest.raises(GeometryError, match=r"shape \(1, 31, 26\), the target \(3, 31, 26\)"):
        ImageScores().update([broken | {"pred": torch.zeros(1, 31, 26)}])
    with pytest.raises(GeometryError, match="mask has shape"):
        ImageScores(mask_key="mask").update([ITEMS[0] | {"mask": torch.ones(3, 31, 26)}])
    with pytest.raises(LabelError, match="empty"):
        ImageScores(mask_key="mask").update([ITEMS[0] | {"mask": torch.zeros(1, 31, 26)}])
    with pytest.raises(ConfigError, match="not 'target'"):
        ImageScores().update([{key: value for key, value in ITEMS[0].items() if key != "target"}])
    with pytest.raises(NotComputableError, match="ImageScores must see"):
        ImageScores().compute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_range": 0}, "data_range is 0"),
        ({"data_range": float("nan")}, "data_range is nan"),
        ({"key_metric": "mae_hu"}, "'mae_hu'"),
        ({"extra_methods": {"model": print}}, "'model'"),
    ],
)
def test_wrong_arguments_are_named_before_the_evaluation(arguments, message):
    with pytest.raises(SynthError, match=message):
        ImageScores(**arguments)

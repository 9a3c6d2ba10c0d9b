import json
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from monai_synth.data.intensity import Percentiles, Window
from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.metrics import TextureDistance, kernel_distance, texture_features
from monai_synth.metrics.texture import FEATURES_PER_CHANNEL, axial_axis, feature_names


def make_image(seed, *, channels=1, size=(24, 20), smooth=1.0):
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=(channels, *size)), (0, *(smooth for _ in size)))
    return (120 + 60 * image / image.std() + rng.normal() * 5).clip(0, 255).astype(np.float32)


def make_items(seeds, **arguments):
    return [
        {
            "target": make_image(seed, **arguments),
            "pred": torch.as_tensor(make_image(1000 + seed, **arguments)),
            "patient_id": f"P{seed // 2}",
            "case_id": f"C{seed}",
        }
        for seed in seeds
    ]


REFERENCE = make_items(range(40))
ITEMS = make_items(range(50, 66))


def blurred(item):
    return gaussian_filter(np.asarray(item["pred"]), (0, 1, 1))


def test_features_have_names_and_a_fixed_number():
    assert FEATURES_PER_CHANNEL == 54
    for channels in (1, 2, 3):
        features = texture_features(make_image(0, channels=channels))
        names = feature_names(channels)
        assert features.shape == (len(names),) == (54 * channels + channels * (channels - 1) // 2,)
        assert len(set(names)) == len(names)
        assert np.isfinite(features).all()
        np.testing.assert_array_equal(features, texture_features(torch.as_tensor(make_image(0, channels=channels))))


def test_features_by_hand():
    image = np.zeros((1, 16, 16), np.float32)
    image[:, ::2] = 255  # stripes across x
    found = dict(zip(feature_names(1), texture_features(image), strict=True))
    assert found["channel_0_mean"] == found["channel_0_std"] == pytest.approx(0.5)
    assert found["channel_0_entropy"] == pytest.approx(1)  # two equally frequent levels
    assert (found["channel_0_percentile_5"], found["channel_0_percentile_95"]) == (0, 1)
    # Of the four directions only the one along the stripes sees equals at distance 1; at 2 also the one across, but
    # neither diagonal, because its 1.4 pixels along each axis are rounded to 1.
    assert found["channel_0_cooccurrence_contrast_1"] == pytest.approx(0.75 * 31**2)
    assert found["channel_0_cooccurrence_contrast_2"] == pytest.approx(0.5 * 31**2)
    assert found["channel_0_x_energy_1"] > found["channel_0_y_energy_1"] == pytest.approx(-4)
    patterns = [found[f"channel_0_pattern_{k}_radius_1"] for k in range(10)]
    assert sum(patterns) == pytest.approx(1)


def test_range_is_fixed_unless_asked_for():
    image = make_image(0)
    scaled = image * 8 - 500
    assert np.abs(texture_features(image) - texture_features(image / 2)).max() > 0.1
    np.testing.assert_allclose(
        texture_features(scaled, intensity=Window(-500, 1540, "HU")), texture_features(image), atol=1e-6
    )
    np.testing.assert_allclose(
        texture_features(scaled, intensity=Percentiles(0, 100)), texture_features(image, intensity=Percentiles(0, 100))
    )


def test_decimals_do_not_betray_a_prediction():
    image = np.rint(make_image(0))
    np.testing.assert_array_equal(texture_features(image), texture_features(image + 0.3))


def test_volume_is_the_mean_of_its_axial_slices_that_vary():
    planes = [make_image(seed) for seed in range(3)]
    expected = np.mean([texture_features(plane) for plane in planes], axis=0)
    volume = np.stack([np.zeros_like(planes[0]), *planes, np.full_like(planes[0], 9)], axis=-1)
    np.testing.assert_allclose(texture_features(volume), expected)
    np.testing.assert_allclose(texture_features(np.moveaxis(volume, -1, 1), axis=0), expected)
    empty = np.zeros((1, 12, 12, 4))
    np.testing.assert_array_equal(texture_features(empty), texture_features(empty[..., 0]))


def test_axial_axis_comes_from_the_affine():
    sagittal = torch.tensor([[0, 0, -1.0, 0], [1, 0, 0, 0], [0, 2, 0.1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    assert axial_axis(MetaTensor(torch.zeros(1, 4, 5, 6), affine=sagittal)) == 1
    assert axial_axis(MetaTensor(torch.zeros(1, 4, 5, 6))) == 2
    assert axial_axis(np.zeros((1, 4, 5, 6))) == -1


@pytest.mark.parametrize("intensity", [Window(0, 255), Percentiles()])
def test_a_constant_image_has_features(intensity):
    assert np.isfinite(texture_features(np.full((1, 16, 16), 7.0), intensity=intensity)).all()
    nearly = np.zeros((1, 16, 16))
    nearly[0, 3, 3] = 1
    assert np.isfinite(texture_features(nearly, intensity=Percentiles(5, 95))).all()


def test_wrong_images_are_named():
    with pytest.raises(GeometryError, match="7 x 16 pixels"):
        texture_features(np.zeros((1, 7, 16)))
    with pytest.raises(GeometryError, match=r"\(16, 16\) has no texture"):
        texture_features(np.zeros((16, 16)))
    with pytest.raises(IntensityError, match="1 of 256 values are NaN"):
        texture_features(np.where(np.arange(256).reshape(1, 16, 16) == 3, np.nan, 0))


def test_kernel_distance_is_the_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 2, (5, 3)), rng.normal(0, 3, (7, 3))
    y[:, 2] = 4.0  # constant in the reference: only shifted
    mean, std = y.mean(axis=0), np.array([*y.std(axis=0)[:2], 1.0])

    def kernel(a, b):
        return (np.arcsinh((a - mean) / std) @ np.arcsinh((b - mean) / std) / 3 + 1) ** 3

    def mean_of(values):
        return sum(values) / len(values)

    expected = (
        mean_of([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
        + mean_of([kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
        - 2 * mean_of([kernel(a, b) for a in x for b in y])
    )
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_zero_in_expectation_and_grows_with_the_difference():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, 12))

    def draw(num, shift=0.0):
        return (rng.normal(size=(num, 12)) + shift) @ mixing

    same = np.array([kernel_distance(draw(30), draw(200)) for _ in range(200)])
    assert abs(same.mean()) < 4 * same.std() / np.sqrt(len(same))
    assert (same < 0).mean() > 0.3
    near, far = (np.mean([kernel_distance(draw(30, shift), draw(200)) for _ in range(20)]) for shift in (0.5, 1.0))
    assert same.std() < near < far


def test_kernel_distance_refuses_what_it_cannot_compare():
    with pytest.raises(ConfigError, match="at least 2"):
        kernel_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="same number of features"):
        kernel_distance(np.zeros((3, 2)), np.zeros((4, 3)))
    with pytest.raises(IntensityError, match="NaN"):
        kernel_distance(np.full((3, 3), np.nan), np.zeros((4, 3)))


def test_distance_of_an_engine_equals_the_function_and_ranks_methods():
    methods = {
        "blurred": blurred,
        "grey": lambda item: np.full((24, 20), 120.0),
        "real_images": lambda item: item["target"],
    }
    metric = TextureDistance(REFERENCE, extra_methods=methods)
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "texture_kid")
    for _ in range(2):  # an epoch forgets the one before
        state = engine.run([ITEMS[:7], ITEMS[7:]], max_epochs=1)
    expected = kernel_distance(
        np.stack([texture_features(item["pred"]) for item in ITEMS]),
        np.stack([texture_features(item["target"]) for item in REFERENCE]),
    )
    assert state.metrics == {"texture_kid": pytest.approx(expected)}
    summary = metric.summary.set_index("method")
    assert list(metric.summary.columns) == ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
    assert list(summary.index) == ["model", *methods]
    assert set(summary["metric"]) == {"texture_kid"}
    assert set(summary["n"]) == {8}
    means = summary["mean"]
    assert means["model"] == state.metrics["texture_kid"]
    assert max(abs(means["model"]), abs(means["real_images"])) < means["blurred"] < means["grey"]
    # The predictions are drawn like the reference.
    assert summary.loc["model", "ci_low"] < 0 < summary.loc["model", "ci_high"]
    assert summary.loc["blurred", "ci_low"] > 0
    described = json.loads(json.dumps(metric.describe()))
    assert described | {"extractor": "monai_synth texture 1", "num_features": 54} == described
    assert [described[f"num_{name}"] for name in ("images", "patients", "reference", "shared_patients")] == [
        16,
        8,
        40,
        0,
    ]
    assert metric.units == {"texture_kid": ""}


def test_patients_on_both_sides_are_counted():
    metric = TextureDistance([*REFERENCE, *ITEMS[:3]])  # of two patients
    metric.update(ITEMS)
    metric.compute()
    assert metric.describe()["num_shared_patients"] == 2
    nameless = TextureDistance([{"target": item["target"]} for item in REFERENCE])
    nameless.update(ITEMS)
    nameless.compute()
    assert nameless.describe()["num_shared_patients"] == 0


def test_interval_is_the_jackknife_over_patients():
    metric = TextureDistance(REFERENCE)
    metric.update(ITEMS)
    value = metric.compute()
    reference = np.stack([texture_features(item["target"]) for item in REFERENCE])
    left = []
    for patient in sorted({item["patient_id"] for item in ITEMS}):
        kept = [texture_features(item["pred"]) for item in ITEMS if item["patient_id"] != patient]
        left.append(kernel_distance(np.stack(kept), reference))
    half = 2.3646 * np.sqrt(7 / 8 * np.square(np.array(left) - np.mean(left)).sum())  # Student, 7 degrees of freedom
    row = metric.summary.iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(value - half, rel=1e-4), pytest.approx(value + half, 1e-4))
    few = TextureDistance(REFERENCE)
    few.update(ITEMS[:8])
    few.compute()
    assert few.summary.iloc[0][["ci_low", "ci_high"]].isna().all()


def test_one_case_is_nan_with_a_warning_and_none_an_error():
    metric = TextureDistance(REFERENCE[:2])
    with pytest.raises(NotComputableError, match="TextureDistance must see"):
        metric.compute()
    assert metric.summary.empty
    metric.update(ITEMS[0])
    metric.update(ITEMS[0])  # a repeated case is still one
    with pytest.warns(RuntimeWarning, match="at least 2 predictions, not 1"):
        assert np.isnan(metric.compute())
    assert np.isnan(metric.summary.iloc[0]["mean"])


def test_reference_is_limited_and_read_once():
    read = []

    class Recording(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    metric = TextureDistance(Recording(REFERENCE), max_reference=5, seed=3)
    for _ in range(2):
        metric.update(ITEMS)
        metric.compute()
        metric.reset()
    assert len(read) == len(set(read)) == 5
    assert metric.describe()["num_reference"] == 5


def test_colours_and_volumes():
    reference = make_items(range(6), channels=3)
    metric = TextureDistance(reference, extra_methods={"swapped": lambda item: item["pred"].flip(0)})
    items = make_items(range(10, 15), channels=3)
    metric.update(items)
    assert np.isfinite(metric.compute())
    assert metric.describe()["num_features"] == 165
    volumes = [{"target": MetaTensor(make_image(seed, size=(12, 13, 3)))} for seed in range(4)]
    metric = TextureDistance(volumes, intensity=Percentiles())
    metric.update(make_items(range(4), size=(12, 13, 3)))
    assert np.isfinite(metric.compute())


def test_errors_name_the_image_and_the_way_out():
    metric = TextureDistance(REFERENCE)
    broken = ITEMS[0] | {"pred": torch.full((1, 24, 20), float("nan"))}
    with pytest.raises(IntensityError, match="Case 'C50', method 'model': 480 of 480 values are NaN"):
        metric.update([broken])
    with pytest.raises(ConfigError, match="1 reference images"):
        TextureDistance(REFERENCE[:1])
    with pytest.raises(ConfigError, match="'mae'"):
        TextureDistance(REFERENCE, "mae")
    metric.update(ITEMS[:2])
    metric.compute()
    with pytest.raises(GeometryError, match="has 3 channels, the reference images 1"):
        metric.update([ITEMS[0] | {"pred": torch.zeros(3, 24, 20)}])

    def compute(reference, **arguments):
        metric = TextureDistance(reference, **arguments)
        metric.update(ITEMS)
        metric.compute()

    with pytest.raises(IntensityError, match=r"constant in the range of Window\(low=1000"):
        compute(REFERENCE, intensity=Window(1000, 2000))
    with pytest.raises(IntensityError, match="Reference image 'C1', 'target'"):
        compute([REFERENCE[0], REFERENCE[1] | {"target": np.full((1, 24, 20), np.inf)}])
    with pytest.raises(GeometryError, match="1 and 3 channels"):
        compute([REFERENCE[0], *make_items([7], channels=3)])
    with pytest.raises(ConfigError, match="not 'image'"):
        compute(REFERENCE, target_key="image")


def test_predictions_of_other_channels_before_the_reference_is_known():
    metric = TextureDistance(REFERENCE)
    metric.update(make_items(range(2), channels=3))
    with pytest.raises(GeometryError, match="3 channels, the reference images 1"):
        metric.compute()


def test_ranks_share_the_reference_and_gather_their_features(tmp_path):
    metric = TextureDistance(REFERENCE)
    metric.update(ITEMS)
    expected = metric.compute()
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            import ignite.distributed as idist
            from test_distribution import ITEMS, REFERENCE, TextureDistance
            idist.initialize("gloo")
            metric = TextureDistance(REFERENCE)
            # Rank 1 repeats a case of rank 0, as a DistributedSampler that pads does.
            metric.update(ITEMS[:10] if idist.get_rank() == 0 else ITEMS[9:])
            print("RESULT", repr(metric.compute()), metric.describe()["num_images"], flush=True)
            idist.finalize()
            """
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in outputs:
        line = next((line for line in out.splitlines() if line.startswith("RESULT")), "")
        assert line, err
        assert float(line.split()[1]) == pytest.approx(expected, rel=1e-9)
        assert line.endswith(" 16")

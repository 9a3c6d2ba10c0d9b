import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.metrics.synthrad import PRESETS, explain_missing, score_case

GOLDEN = "synthrad_image_v2023-3200007_v2025-17cac47"
CASES = [
    "typical0",
    "typical1",
    "typical2",
    "float_pred",
    "identical",
    "pred_out_of_clip",
    "mask255",
    "mask_touches_borders",
    "mask_corner",
    "offset25_bg500",
    "flip_x",
    "shift_z1",
    "tiny_mask_1voxel_centre",
    "tiny_mask_in_cropped_border",
    "empty_mask",
]
# Version of the official code: our preset, relative tolerance of MAE and PSNR, absolute tolerance of (MS-)SSIM.
VERSIONS = {
    "synthrad2023_metrics@3200007": ("synthrad2023", 1e-6, 5e-7),
    "synthrad2023_metrics@3200007_float64": ("synthrad2023", 1e-9, 5e-7),
    "synthrad2025_evaluation@17cac47_range-1024_3071": ("synthrad2025", 1e-9, 1e-8),
    "synthrad2025_metrics@0beef65_range-1024_3000": ("synthrad2025-paper", 1e-9, 1e-8),
}
KEYS = {"mae": "mae_hu", "psnr": "psnr_db", "ssim": "ssim", "ms_ssim": "ms_ssim"}


@pytest.fixture(scope="module")
def golden():
    folder = Path(__file__).parents[1] / "golden"
    with np.load(folder / f"{GOLDEN}.npz") as arrays:
        return json.loads((folder / f"{GOLDEN}.json").read_text()), dict(arrays)


@pytest.fixture
def volumes():
    """A rough and a noisy volume with a mask that is neither centred nor convex, 70 planes: three slabs."""
    rng = np.random.default_rng(3)
    target = rng.normal(0, 400, (70, 23, 31)) + np.linspace(-500, 500, 31)
    prediction = target + rng.normal(0, 90, target.shape)
    mask = np.zeros(target.shape, np.uint8)
    mask[1:68, 2:20, 5:29] = 1
    mask[50:60, 8:12, 8:20] = 0  # not at the centre, the only voxel left at the coarsest scale of MS-SSIM
    return prediction, target, mask


def load(golden, case):
    description, arrays = golden
    return tuple(arrays[description["array_of"][f"{case}__{name}"]] for name in ("pred", "gt", "mask"))


def test_golden_file_has_exactly_the_cases_below(golden):
    assert sorted(golden[0]["cases"]) == sorted(CASES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_official_code(golden, case, version):
    preset, rtol, atol = VERSIONS[version]
    scores = score_case(*load(golden, case), preset)
    expected = {KEYS[k]: float(v) for k, v in golden[0]["cases"][case]["expected"][version].items() if k in KEYS}
    assert scores.keys() == expected.keys()
    for key, value in expected.items():
        tolerance = {"rel": rtol, "abs": 0} if key in ("mae_hu", "psnr_db") else {"rel": 0, "abs": atol}
        assert scores[key] == pytest.approx(value, nan_ok=True, **tolerance), key


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", CASES)
def test_every_nan_has_a_reason_and_nothing_else_has_one(golden, case, preset):
    arrays = load(golden, case)
    scores = score_case(*arrays, preset)
    assert {key for key, value in scores.items() if np.isnan(value)} == set(explain_missing(arrays[2], preset))


def skimage_ssim(prediction, target, mask):
    low, high = -1024, 3000
    x, y = (np.where(mask > 0, np.clip(image, low, high), low) - low for image in (prediction, target))
    _, full = structural_similarity(x, y, data_range=float(high - low), full=True)
    core = (slice(3, -3),) * mask.ndim
    return full[core][mask[core] > 0].mean()


def test_box_and_slabs_do_not_change_ssim(volumes):
    assert score_case(*volumes)["ssim"] == pytest.approx(skimage_ssim(*volumes), abs=1e-12)


def test_psnr_equals_skimage_on_the_voxels_of_the_mask(volumes):
    x, y, mask = (volumes[0].clip(-1024, 3000), volumes[1].clip(-1024, 3000), volumes[2] > 0)
    expected = peak_signal_noise_ratio(y[mask], x[mask], data_range=4024)
    assert score_case(*volumes)["psnr_db"] == pytest.approx(expected, rel=1e-12)


def test_mae_is_not_clipped():
    target, mask = np.zeros((8, 8, 8)), np.ones((8, 8, 8))
    assert score_case(np.full_like(target, 6000), target, mask)["mae_hu"] == 6000


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_get_ssim_2d_and_no_ssim(volumes, axis):
    plane = tuple(np.ascontiguousarray(array[55]) for array in volumes)
    scores = score_case(*(np.expand_dims(array, axis) for array in plane))
    assert np.isnan(scores["ssim"])
    assert scores["ssim_2d"] == pytest.approx(skimage_ssim(*plane), abs=1e-12)
    assert scores["mae_hu"] == pytest.approx(np.abs(plane[0] - plane[1])[plane[2] > 0].mean(), rel=1e-12)
    assert set(explain_missing(np.expand_dims(plane[2], axis))) == {"ssim"}


def test_slices_have_the_official_ms_ssim(volumes):
    scores = score_case(*(array[35:36] for array in volumes), "synthrad2025")
    assert set(scores) == {"mae_hu", "psnr_db", "ms_ssim"}
    assert 0 < scores["ms_ssim"] < 1


@pytest.mark.parametrize(
    ("shape", "missing"),
    [((6, 20, 20), {"ssim"}), ((1, 5, 20), {"ssim", "ssim_2d"}), ((1, 1, 20), {"ssim", "ssim_2d"})],
)
def test_too_small_for_a_window_is_nan_with_a_reason(shape, missing):
    image, mask = np.zeros(shape), np.ones(shape)
    scores = score_case(image + 10, image, mask)
    assert {key for key, value in scores.items() if np.isnan(value)} == missing
    assert set(explain_missing(mask)) == missing


def test_values_outside_the_mask_never_count(volumes):
    prediction, target, mask = (array.copy() for array in volumes)
    for preset in PRESETS:
        expected = score_case(prediction, target, mask, preset)
        spoiled = np.where(mask > 0, prediction, np.nan)
        assert score_case(spoiled, target, mask, preset) == expected


def test_no_mask_counts_all_voxels(volumes):
    assert score_case(*volumes[:2], None) == score_case(*volumes[:2], np.ones(volumes[0].shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16])
def test_tensors_score_as_arrays(volumes, dtype):
    tensors = [torch.as_tensor(array).to(dtype) for array in volumes]
    assert score_case(*tensors) == score_case(*(tensor.numpy() for tensor in tensors))


def test_inputs_are_left_alone(volumes):
    copies = [array.copy() for array in volumes]
    for preset in PRESETS:
        score_case(*volumes, preset)
    for array, copy in zip(volumes, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_nan_inside_the_mask_is_counted(volumes):
    prediction, target, mask = volumes
    prediction = prediction.copy()
    prediction[10, 10, 10:13] = [np.nan, np.inf, -np.inf]
    with pytest.raises(IntensityError, match="prediction has 3 NaN or infinite"):
        score_case(prediction, target, mask)
    with pytest.raises(IntensityError, match="target has 3 NaN or infinite"):
        score_case(target, prediction, mask)


def test_wrong_shapes_are_named():
    image = np.zeros((8, 9, 10))
    with pytest.raises(GeometryError, match=r"prediction has shape \(10, 9, 8\)"):
        score_case(image.T, image, image)
    with pytest.raises(GeometryError, match="mask has shape"):
        score_case(image, image, image[1:])
    with pytest.raises(GeometryError, match="one case and one channel"):
        score_case(image[None], image[None], image[None])
    with pytest.raises(GeometryError, match=r"\(1, Y, X\)"):
        explain_missing(image[0])


def test_unknown_preset_lists_the_known():
    image = np.zeros((8, 8, 8))
    with pytest.raises(ConfigError, match=r"synthrad2024.*synthrad2025-paper"):
        score_case(image, image, image, "synthrad2024")

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.inferers.baselines import BodyAsWater, HistogramMatch, MeanTargetByCondition, fit_baselines
from monai_synth.metrics import CaseScores

NAMES = ["body_as_water", "mean_target_by_condition", "histogram_match"]
SHAPE = (7, 8, 9)


def make_case(seed, *, shape=SHAPE, gain=1.0, offset=0.0):
    """MR and CT that share the tissue: CT falls with MR, as bone is dark and fat bright; air around the body."""
    rng = np.random.default_rng(seed)
    tissue = rng.uniform(0, 1, shape)
    mask = np.zeros(shape, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    condition = np.where(mask, tissue * 500, 0) * gain + offset
    target = np.where(mask, 800 - 900 * tissue, -1000)
    return {"condition": condition.astype(np.float32), "target": np.rint(target).astype(np.int16), "mask": mask}


@pytest.fixture(params=[BodyAsWater, MeanTargetByCondition, HistogramMatch])
def baseline(request):
    return request.param().fit(make_case(seed) for seed in range(4))


def mae(baseline, case):
    inside = case["mask"] > 0
    return np.abs(baseline.predict(case["condition"], case["mask"]) - case["target"])[inside].mean()


def test_prediction_is_hu_with_air_outside(baseline):
    case = make_case(9)
    prediction = baseline.predict(case["condition"], case["mask"])
    assert prediction.dtype == np.float32
    assert prediction.shape == SHAPE
    assert (prediction[case["mask"] == 0] == -1000).all()
    assert np.isfinite(prediction).all()


def test_linear_change_of_the_condition_changes_nothing(baseline):
    case, changed = make_case(9), make_case(9, gain=4.0, offset=64.0)  # exact in float32
    expected = baseline.predict(case["condition"], case["mask"])
    result = baseline.predict(changed["condition"], changed["mask"])
    # Rounding may push a voxel over the edge of a bin; a bin is about 15 HU wide here.
    assert np.abs(result - expected).max() < 20


def test_empty_mask_is_air(baseline):
    case = make_case(9)
    assert (baseline.predict(case["condition"], np.zeros(SHAPE)) == -1000).all()


def test_no_mask_is_all_body(baseline):
    case = make_case(9)
    everywhere = baseline.predict(case["condition"], np.ones(SHAPE))
    np.testing.assert_array_equal(baseline.predict(case["condition"], None), everywhere)


def test_item_of_an_evaluator(baseline):
    case = make_case(9)
    item = {key: torch.as_tensor(array)[None] for key, array in case.items()}
    np.testing.assert_array_equal(baseline(item), baseline.predict(case["condition"], case["mask"]))
    two_channels = item | {"condition": torch.cat([item["condition"], torch.zeros(1, *SHAPE)])}
    np.testing.assert_array_equal(baseline(two_channels), baseline(item))


def test_wrong_shape_of_mask_is_named(baseline):
    with pytest.raises(GeometryError, match="mask has shape"):
        baseline.predict(np.zeros(SHAPE), np.ones((2, 2)))


def test_water():
    case = make_case(0)
    prediction = BodyAsWater(air_hu=-1024).predict(case["condition"], case["mask"])
    np.testing.assert_array_equal(prediction, np.where(case["mask"], 0, -1024))


def test_table_learns_that_ct_falls_with_mr():
    fitted = MeanTargetByCondition().fit(make_case(seed) for seed in range(6))
    assert mae(fitted, make_case(9)) < 15
    assert (np.diff(fitted.table_hu) < 0).mean() > 0.9


def test_table_is_the_mean_and_fills_gaps():
    condition = np.array([0.0, 0.0, 100.0, 100.0])
    fitted = MeanTargetByCondition(num_bins=5).fit([{"condition": condition, "target": np.array([10, 30, 60, 140])}])
    np.testing.assert_allclose(fitted.table_hu, [20, 40, 60, 80, 100])


def test_histogram_match_reproduces_the_histogram_and_gets_falling_contrast_wrong():
    fitted = HistogramMatch().fit(make_case(seed) for seed in range(6))
    case = make_case(9)
    inside = case["mask"] > 0
    prediction = fitted.predict(case["condition"], case["mask"])[inside]
    levels = np.linspace(0.1, 0.9, 9)
    pooled = np.concatenate([make_case(seed)["target"][inside] for seed in range(6)])
    np.testing.assert_allclose(np.quantile(prediction, levels), np.quantile(pooled, levels), atol=10)
    assert np.corrcoef(prediction, case["target"][inside])[0, 1] < -0.9
    assert mae(fitted, case) > 200


def test_stored_quantiles_are_those_of_the_pooled_target():
    target = np.random.default_rng(0).integers(-1000, 2000, 1001)
    fitted = HistogramMatch(num_quantiles=11).fit([{"condition": np.zeros(1001), "target": target}])
    np.testing.assert_allclose(fitted.quantiles_hu, np.quantile(target, np.linspace(0, 1, 11)), rtol=1e-12)


def test_equal_intensities_get_one_value():
    fitted = HistogramMatch().fit([make_case(0)])
    prediction = fitted.predict(np.array([1.0, 1.0, 1.0, 5.0]), None)
    assert prediction[0] == prediction[1] == prediction[2] < prediction[3]


@pytest.mark.parametrize("kind", [MeanTargetByCondition, HistogramMatch])
def test_unfitted_and_empty_fits_are_named(kind):
    with pytest.raises(ConfigError, match=r"only after fit"):
        kind().predict(np.zeros(3), None)
    with pytest.raises(ConfigError, match="saw no voxel"):
        kind().fit([])
    with pytest.raises(ConfigError, match="saw no voxel"):
        kind().fit([make_case(0) | {"mask": np.zeros(SHAPE)}])


@pytest.mark.parametrize("kind", [MeanTargetByCondition, HistogramMatch])
def test_fitting_again_forgets(kind):
    fitted = kind().fit([make_case(0)])
    before = fitted.predict(make_case(9)["condition"], None)
    fitted.fit([make_case(1, gain=2)]).fit([make_case(0)])
    np.testing.assert_array_equal(fitted.predict(make_case(9)["condition"], None), before)


@pytest.mark.parametrize("kind", [MeanTargetByCondition, HistogramMatch])
def test_broken_training_cases_are_named(kind):
    case = make_case(0)
    with pytest.raises(GeometryError, match="target has shape"):
        kind().fit([case | {"target": np.zeros((2, 2))}])
    broken = case | {"target": case["target"].astype(float)}
    broken["target"][3, 3, 3] = np.nan
    with pytest.raises(IntensityError, match="target of a training case has 1 NaN"):
        kind().fit([broken])


def test_too_few_bins_are_named():
    with pytest.raises(ConfigError, match="num_bins is 1"):
        MeanTargetByCondition(num_bins=1)
    with pytest.raises(ConfigError, match="num_quantiles is 1"):
        HistogramMatch(num_quantiles=1)


def write(case, folder, suffix):
    folder.mkdir()
    paths = {}
    for key, array in case.items():
        paths[key] = str(folder / f"{key}{suffix}")
        if suffix == ".mha":
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.transpose(2, 1, 0)), paths[key])
        else:
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2.5, 1])), paths[key])
    return paths


def test_fit_baselines_reads_files_of_both_kinds(tmp_path):
    paths = [write(make_case(seed), tmp_path / str(seed), [".nii.gz", ".mha"][seed % 2]) for seed in range(4)]
    fitted = fit_baselines(paths)
    assert list(fitted) == NAMES
    case = make_case(9)
    for name, kind in zip(NAMES, [BodyAsWater, MeanTargetByCondition, HistogramMatch], strict=True):
        expected = kind().fit(make_case(seed) for seed in range(4)).predict(case["condition"], case["mask"])
        np.testing.assert_allclose(fitted[name].predict(case["condition"], case["mask"]), expected, atol=1e-3)


def test_fit_baselines_takes_slices_and_lists_of_paths(tmp_path):
    paths = write(make_case(0, shape=(9, 10, 3)), tmp_path / "case", ".nii.gz")
    as_list = {**paths, "condition": [paths["condition"], paths["mask"]]}
    first, second = fit_baselines([paths]), fit_baselines([as_list])
    np.testing.assert_array_equal(first[NAMES[1]].table_hu, second[NAMES[1]].table_hu)


def test_fit_baselines_limits_and_repeats_its_choice(tmp_path):
    paths = [write(make_case(seed, gain=1 + seed), tmp_path / str(seed), ".nii.gz") for seed in range(5)]
    tables = [fit_baselines(paths, max_cases=2, seed=seed)[NAMES[1]].table_hu for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert not np.array_equal(tables[0], tables[2])
    with pytest.raises(ConfigError, match="at least one training case"):
        fit_baselines([])


def test_scored_beside_a_model():
    baselines = {b.name: b.fit(make_case(seed) for seed in range(4)) for b in (BodyAsWater(), MeanTargetByCondition())}
    metric = CaseScores(extra_methods=baselines)
    case = {key: torch.as_tensor(array)[None] for key, array in make_case(9).items()}
    metric.update([case | {"pred": case["target"].float(), "patient_id": "P9", "case_id": "P9"}])
    scores = metric.table.set_index("method")["mae_hu"]
    assert scores["model"] == 0 < scores["mean_target_by_condition"] < scores["body_as_water"]


def test_table_beats_water_on_real_heads(shared_dir):
    root = shared_dir / "data/A_mr_ct/SynthRAD2023_brain_slices_hu/Task1/brain"
    folders = sorted(folder / "axial" for folder in root.iterdir())
    roles = {"condition": "mr", "target": "ct", "mask": "mask"}
    paths = [{key: str(folder / f"{name}.nii.gz") for key, name in roles.items()} for folder in folders]
    fitted = fit_baselines(paths[:70], max_cases=70)
    test = [{key: np.asanyarray(nib.load(path).dataobj) for key, path in case.items()} for case in paths[70:]]
    maes = {name: np.mean([mae(baseline, case) for case in test]) for name, baseline in fitted.items()}
    # Computed a second time with plain numpy; the first has nothing to fit, it is the mean |HU| inside the mask.
    assert maes["body_as_water"] == pytest.approx(324.67, abs=0.01)
    assert maes["mean_target_by_condition"] == pytest.approx(187.81, abs=0.1)
    assert maes["histogram_match"] == pytest.approx(272.99, abs=0.1)

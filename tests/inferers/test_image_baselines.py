import numpy as np
import pytest
import torch
from PIL import Image

from monai_synth.errors import ConfigError, GeometryError, IntensityError, LabelError
from monai_synth.inferers import MeanTargetByLabel, fit_image_baselines
from monai_synth.metrics import ImageScores, TextureDistance

COLOURS = {0: (200, 150, 130), 255: (90, 50, 40)}
LABELS = {"0": "background", "255": "lesion"}


def make_case(seed, *, size=(14, 17), channels=3):
    rng = np.random.default_rng(seed)
    ids = np.where(rng.uniform(size=size) > 0.6, 255, 0).astype(np.uint8)
    colour = np.stack([np.where(ids == 255, COLOURS[255][c], COLOURS[0][c]) for c in range(channels)])
    return {"condition": ids[None], "target": (colour + rng.integers(-9, 10, colour.shape)).astype(np.uint8)}


def write(case, folder, *, suffix=".png", mask_mode="L"):
    folder.mkdir()
    target, ids = case["target"], case["condition"][0]
    picture = Image.fromarray(target.transpose(2, 1, 0).squeeze())
    paths = {"target": str(folder / f"image{suffix}"), "condition": str(folder / "mask.png"), "case_id": folder.name}
    picture.save(paths["target"], **({"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}))
    Image.fromarray(ids.T).convert(mask_mode).save(paths["condition"])
    return paths


@pytest.fixture
def cases():
    return [make_case(seed) for seed in range(5)]


def test_means_are_those_of_the_pixels_of_each_label(cases):
    baseline = fit_image_baselines(cases)["mean_target_by_label"]
    assert list(baseline.means) == [0, 255]
    for label, mean in baseline.means.items():
        pixels = np.concatenate([case["target"][:, case["condition"][0] == label] for case in cases], axis=1)
        np.testing.assert_allclose(mean, pixels.mean(axis=1))
    item = {"condition": torch.as_tensor(make_case(9)["condition"])}
    prediction = baseline(item)
    assert (prediction.dtype, prediction.shape) == (np.float32, (3, 14, 17))
    np.testing.assert_allclose(prediction[:, item["condition"][0] == 255][:, 0], baseline.means[255], rtol=1e-6)


def test_unseen_label_gets_the_overall_mean(cases):
    baseline = fit_image_baselines(cases)["mean_target_by_label"]
    pixels = np.concatenate([case["target"].reshape(3, -1) for case in cases], axis=1)
    prediction = baseline({"condition": np.full((1, 2, 2), 7)})
    np.testing.assert_allclose(prediction[:, 0, 0], pixels.mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".tif", 0), (".jpg", 3)])
@pytest.mark.parametrize("mask_mode", ["L", "RGB", "1"])
def test_files_give_what_arrays_give(cases, tmp_path, suffix, tolerance, mask_mode):
    paths = [write(case, tmp_path / str(k), suffix=suffix, mask_mode=mask_mode) for k, case in enumerate(cases)]
    fitted = fit_image_baselines(paths, labels=LABELS)["mean_target_by_label"].means
    expected = fit_image_baselines(cases)["mean_target_by_label"].means
    assert list(fitted) == list(expected)
    for label, mean in expected.items():
        np.testing.assert_allclose(fitted[label], mean, atol=tolerance)


def test_grey_levels_and_volumes(tmp_path):
    grey = [write(make_case(k, channels=1), tmp_path / str(k)) for k in range(2)]
    assert fit_image_baselines(grey, channels=1)["mean_target_by_label"].means[0].shape == (1,)
    assert fit_image_baselines(grey)["mean_target_by_label"].means[0].shape == (3,)
    volume = {"condition": np.zeros((1, 4, 5, 6)), "target": np.ones((1, 4, 5, 6))}
    prediction = fit_image_baselines([volume])["mean_target_by_label"](volume)
    np.testing.assert_array_equal(prediction, np.ones((1, 4, 5, 6), np.float32))


def test_one_hot_conditions_need_the_table(cases):
    baseline = fit_image_baselines(cases, labels=LABELS)["mean_target_by_label"]
    ids = torch.as_tensor(make_case(9)["condition"]).long()
    one_hot = torch.cat([ids == 0, ids == 255]).float()
    expected = baseline({"condition": ids})
    np.testing.assert_array_equal(baseline({"condition": one_hot}), expected)
    np.testing.assert_array_equal(baseline({"condition": one_hot, "native_condition": ids}), expected)
    with pytest.raises(LabelError, match=r"2 channels and labels were not given.*native_condition"):
        fit_image_baselines(cases)["mean_target_by_label"]({"condition": one_hot})


def test_choice_is_limited_and_repeats(cases):
    counts = []
    for seed in (0, 0, 1):
        means = fit_image_baselines(cases, max_cases=2, seed=seed)["mean_target_by_label"].means
        counts.append(means[0].tolist())
    assert counts[0] == counts[1] != counts[2]


def test_errors_name_the_case_and_the_way_out(cases, tmp_path):
    with pytest.raises(ConfigError, match="at least one training case"):
        fit_image_baselines([])
    with pytest.raises(ConfigError, match="channels is 4"):
        fit_image_baselines(cases, channels=4)
    with pytest.raises(ConfigError, match="only after training"):
        MeanTargetByLabel()(cases[0])
    with pytest.raises(ConfigError, match="not 'target'"):
        fit_image_baselines([{"condition": "x.png"}])
    named = cases[0] | {"case_id": "lesion_7"}
    with pytest.raises(GeometryError, match="Training case 'lesion_7'.*one grid"):
        fit_image_baselines([named | {"condition": np.zeros((1, 3, 3))}])
    with pytest.raises(GeometryError, match="1 channels, those before had 3"):
        fit_image_baselines([cases[0], named | {"target": cases[0]["target"][:1]}])
    with pytest.raises(IntensityError, match="1 NaN"):
        fit_image_baselines([named | {"target": np.where(np.arange(714).reshape(3, 14, 17) == 5, np.nan, 1)}])
    with pytest.raises(LabelError, match="'lesion_7'"):
        fit_image_baselines([named | {"condition": np.full((1, 14, 17), 254)}], labels=LABELS)
    coloured = write(cases[0], tmp_path / "case")
    Image.fromarray(cases[0]["target"].transpose(2, 1, 0)).save(coloured["condition"])
    with pytest.raises(LabelError, match="3 channels"):
        fit_image_baselines([coloured])


def test_scored_beside_a_model(cases):
    baselines = fit_image_baselines(cases)
    items = []
    for seed in range(10, 14):
        case = {key: torch.as_tensor(value) for key, value in make_case(seed).items()}
        items.append(case | {"pred": case["target"].float(), "patient_id": str(seed), "case_id": str(seed)})
    scores = ImageScores(extra_methods=baselines)
    scores.update(items)
    errors = scores.table.groupby("method")["mae"].mean()
    assert errors["model"] == 0
    assert errors["mean_target_by_label"] == pytest.approx(np.abs(np.arange(-9, 10)).mean(), abs=0.2)
    texture = TextureDistance(items, extra_methods=baselines)
    texture.update(items)
    texture.compute()
    distances = texture.summary.set_index("method")["mean"]
    assert distances["model"] < distances["mean_target_by_label"]


def test_beats_one_colour_on_real_lesions(shared_dir):
    folder = shared_dir / "data/E_dermoscopy/ISIC2017_192x256"
    images = sorted((folder / "images").iterdir())[:40]
    masks = {
        path.stem.removesuffix("_mask").removesuffix("_segmentation"): path for path in (folder / "masks").iterdir()
    }
    cases = [{"condition": masks[path.stem], "target": path} for path in images]
    baseline = fit_image_baselines(cases[:30], labels=LABELS)["mean_target_by_label"]
    lesion, skin = baseline.means[255], baseline.means[0]
    assert (lesion < skin).all()  # lesions are darker, in each colour
    metric = ImageScores(extra_methods={"by_label": baseline, "one_colour": lambda item: item["one_colour"]})
    for case in cases[30:]:
        target = np.asarray(Image.open(case["target"]).convert("RGB")).transpose(2, 1, 0).astype(np.float32)
        ids = np.asarray(Image.open(case["condition"]).convert("L")).T[None]
        overall = np.broadcast_to(((lesion + 3 * skin) / 4)[:, None, None], target.shape)
        item = {"target": target, "pred": target, "condition": ids, "one_colour": overall}
        metric.update(item | {"patient_id": case["target"].stem, "case_id": case["target"].stem})
    errors = metric.table.groupby("method")["rmse"].mean()
    assert errors["by_label"] < errors["one_colour"]

"""Reports of runs whose images are pictures in grey levels, with and without targets."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from monai_synth.reports import headline, write_report
from monai_synth.reports.case_pictures import CasePictures, Display, collect, display_from, draw
from monai_synth.reports.run_folder import read_run
from monai_synth.reports.verdict import judge
from monai_synth.reports.volumes import read_volume

HEIGHT, WIDTH = 12, 20
CASES = [f"C{number}" for number in range(7)]
DISPLAY = Display(unit="grey levels", target_window=(0.0, 255.0))


def photo(seed: int) -> np.ndarray:
    """A picture ``(rows, columns, 3)`` that is bright in its upper left corner."""
    pixels = np.random.default_rng(seed).integers(40, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:4, :6] = (250, 200, 150)
    return pixels


def write_picture_run(folder: Path, *, is_paired: bool = True, key_metric: str = "mae", is_good: bool = True) -> Path:
    """A run's folder with PNG results; the cases get worse in their order."""
    (folder / "evaluation" / "predictions").mkdir(parents=True)
    cohort = folder.parent / f"{folder.name}_cohort"
    cohort.mkdir()
    rows: list[dict[str, Any]] = []
    for seed, case in enumerate(CASES):
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[:4, :6] = 255
        target = photo(seed)
        pred = np.clip(target.astype(int) + 3 + seed, 0, 255).astype(np.uint8)
        files = {"condition": cohort / f"{case}_mask.png", "target": cohort / f"{case}.png"}
        files["prediction"] = folder / "evaluation" / "predictions" / f"{case}.png"
        for file, pixels in zip(files.values(), (mask, target, pred), strict=True):
            Image.fromarray(pixels).save(file)
        if not is_paired:
            files.pop("target")
        paths = {"target": "", "mask": ""} | {role: str(file) for role, file in files.items()}
        ids = {"patient_id": case, "case_id": case, "split": "test"}
        mae = float(np.abs(pred.astype(int) - target.astype(int)).mean())
        scores = {"mae": mae, "psnr_db": 30.0 - seed, "ssim": 0.9 - 0.01 * seed, "pearson": 0.8} if is_paired else {}
        rows.append({"method": "model", **ids, **scores, **paths})
        if is_paired:
            worse = {"mae": mae * 2, "psnr_db": 20.0, "ssim": 0.5 - 0.02 * seed, "pearson": float("nan")}
            worse |= {} if is_good else {"mae": mae / 2, "ssim": 0.95}
            rows.append({"method": "mean_colour", **ids, **worse, **paths, "prediction": ""})
    cases = pd.DataFrame(rows)
    cases.to_csv(folder / "evaluation" / "cases.csv", index=False)
    units = {"mae": "grey levels", "psnr_db": "dB", "ssim": "", "pearson": ""} if is_paired else {}
    summary = [
        [method, metric, unit, len(CASES), group[metric].mean(), group[metric].min(), group[metric].max()]
        for method, group in cases.groupby("method", sort=False)
        for metric, unit in units.items()
    ]
    summary += [["model", "texture_kid", "", 7, 3.25, 2.5, 4.0], ["real_images", "texture_kid", "", 7, 0.0, -0.5, 0.5]]
    columns = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
    pd.DataFrame(summary, columns=columns).to_csv(folder / "evaluation" / "summary.csv", index=False)
    scored = {"unit": "grey levels", "data_range": 255.0, "scored_inside": None, "ssim": {"window": 11}}
    evaluation = {
        "split": "test", "checkpoint": "models/model.pt", "epoch": 3, "key_metric": key_metric,
        **(scored if is_paired else {}),
        "distribution": {"texture_kid": {"extractor": "texture 1", "num_features": 165, "num_reference": 40}},
    }  # fmt: skip
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    roles = {"condition": "mask", "target": "image"} if is_paired else {"condition": "mask"}
    window = {"kind": "window", "low": 0, "high": 255, "unit": "grey levels"}
    run = {"schema": 1, "name": "photos", "roles": roles, "intensity": {"target": window}}
    (folder / "run.json").write_text(json.dumps(run))
    history = pd.DataFrame({"epoch": [1, 2, 3], "lr": 1e-4, "d_real": [1, 0.9, 0.8], "val_texture_kid": [9.0, 5, 3.3]})
    if is_paired:
        history["val_mae"] = [20.0, 15, 12]
    history.to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[..., Path]:
    """Factory of such folders."""
    return lambda name="run", **options: write_picture_run(tmp_path / name, **options)


def page_of(folder: Path) -> tuple[str, str]:
    """The page and its text."""
    page = write_report(folder).read_text(encoding="utf-8")
    body = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.partition("<body>")[2])
    return page, re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def pictures_of(folder: Path, display: Display = DISPLAY) -> CasePictures:
    row = {str(name): value for name, value in read_run(folder).cases.iloc[0].to_dict().items()}
    return collect(row, run_dir=folder, display=display, has_worst_slice=True)


def test_a_report_of_pictures_speaks_of_grey_levels(make_pictures):
    folder = make_pictures()
    page, text = page_of(folder)
    cases = pd.read_csv(folder / "evaluation" / "cases.csv")
    mean = cases.loc[cases["method"] == "model", "mae"].mean()
    assert f"the model's MAE is {mean:.2f} grey levels" in text.replace("&#39;", "'")
    assert "The model beats the best baseline" in text
    assert "every pixel of the image" in text
    assert "range of 255 grey levels" in text
    assert "0 to 255 grey levels" in text
    assert "The whole picture, 20 × 12 pixels" in text
    assert "165 features of texture 1" in text
    assert re.findall(r"<h3>\d+\. (\w+)", page) == CASES[::-1]
    for word in ("HU", "masked", "Radiological", "Axial", " mm", "preset", "nan"):
        assert word not in text, word


def test_colours_stand_upright_with_their_error(make_pictures, decode):
    folder = make_pictures()
    pictures = pictures_of(folder)
    panels = draw(pictures.slices[0], pictures, display=DISPLAY, limit=100)
    assert [panel.title for panel in panels] == ["Condition as stored", "Target", "Prediction", "Prediction − target"]
    assert all(panel.edges is None for panel in panels)
    target = np.asarray(decode(panels[1].source))
    assert target.shape[2] == 3
    assert target.shape[1] / target.shape[0] == pytest.approx(WIDTH / HEIGHT, abs=0.02)
    np.testing.assert_allclose(target[5, 5], (250, 200, 150), atol=2)  # the bright corner is on the upper left
    assert target[-5:].max() < 120
    assert target[:, -5:].max() < 120
    assert pictures.is_label_map
    error = pictures.slices[0].error
    assert error is not None
    np.testing.assert_allclose(error, 3)
    assert pictures.notes == []


def test_files_that_contradict_the_table_are_noticed(make_pictures):
    folder = make_pictures()
    file = folder / "evaluation" / "cases.csv"
    cases = pd.read_csv(file)
    cases.loc[0, "mae"] = 40.0
    cases.to_csv(file, index=False)
    assert any("another evaluation" in note for note in pictures_of(folder).notes)


def test_a_grey_target_is_not_compared_with_colours(make_pictures):
    folder = make_pictures()
    Image.fromarray(photo(0)[..., 0]).save(read_run(folder).cases.iloc[0]["target"])
    pictures = pictures_of(folder)
    assert pictures.slices[0].error is None
    assert any("colours" in note for note in pictures.notes)


def test_without_targets_condition_and_prediction_are_shown(make_pictures):
    folder = make_pictures(is_paired=False, key_metric="texture_kid")
    page, text = page_of(folder)
    assert page.count("<h3>") == 7
    assert page.count("<figcaption>Prediction</figcaption>") == 7
    assert "<figcaption>Target" not in page
    assert "condition: mask, no target" in text
    assert "the model's texture KID is 3.25" in text.replace("&#39;", "'")
    assert "nothing could be compared case by case" in text
    assert "is missing" not in text
    assert "MAE" not in text
    first, second, third = headline(folder)
    assert first == "model, test split: texture KID 3.25 (95 % CI 2.50 to 4.00; n = 7 patients)"
    assert second.startswith("real images: texture KID 0.00")
    assert third == "model: no MAE in evaluation/summary.csv"


def test_real_images_are_no_baseline(make_pictures):
    verdict = judge(read_run(make_pictures(key_metric="texture_kid")))
    assert verdict.outcome == "none"
    assert "that of real images, which no method needs to beat, is 0.00" in verdict.sentence
    assert "no baseline" in verdict.sentence


def test_a_baseline_of_a_distance_has_no_pairs(make_pictures):
    folder = make_pictures(key_metric="texture_kid")
    file = folder / "evaluation" / "summary.csv"
    summary = pd.read_csv(file)
    row = summary[summary["method"] == "real_images"].assign(method="mean_colour", mean=8.0)
    pd.concat([summary, row]).to_csv(file, index=False)
    verdict = judge(read_run(folder))
    assert verdict.outcome == "open"
    assert "belongs to all cases together" in verdict.sentence


@pytest.mark.parametrize(("is_good", "outcome"), [(True, "better"), (False, "worse")])
@pytest.mark.parametrize("metric", ["mae", "ssim"])
def test_the_verdict_knows_which_way_is_better(make_pictures, metric, is_good, outcome):
    folder = make_pictures(key_metric=metric, is_good=is_good)
    verdict = judge(read_run(folder))
    assert verdict.outcome == outcome
    side = "higher" if metric == "ssim" else "lower"
    assert f"the model is {side} in {7 if is_good else 0} of 7 patients" in verdict.sentence
    assert re.findall(r"<h3>\d+\. (\w+)", page_of(folder)[0]) == CASES[::-1]


def test_before_an_evaluation_the_best_validation_is_told(make_pictures):
    folder = make_pictures()
    for name in ("cases.csv", "summary.csv"):
        (folder / "evaluation" / name).unlink()
    (folder / "models").mkdir()
    (folder / "models" / "model.json").write_text(json.dumps({"metric": "texture_kid", "epoch": 3}))
    assert headline(folder)[2].startswith("training: best validation texture KID 3.30 at epoch 3")
    (folder / "models" / "model.json").write_text(json.dumps({"metric": "mae", "epoch": 3}))
    assert headline(folder)[2].startswith("training: best validation MAE 12.00 grey levels at epoch 3")


def test_scored_inside_a_mask_is_said(make_pictures):
    folder = make_pictures()
    file = folder / "evaluation" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scored_inside": "mask"}))
    assert "the model's masked MAE is" in judge(read_run(folder)).sentence


@pytest.mark.parametrize(
    ("mode", "is_label_map", "expected"),
    [("P", True, 1), ("P", False, (255, 0, 0)), ("1", True, 1), ("LA", False, 200), ("RGBA", False, (200, 200, 200))],
)
def test_modes_of_pictures(tmp_path, mode, is_label_map, expected):
    if mode == "P":
        image = Image.fromarray(np.ones((3, 5), dtype=np.uint8))
        image.putpalette([0, 0, 0, 255, 0, 0])
    else:
        image = Image.fromarray(np.full((3, 5), 255 if mode == "1" else 200, dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "p.png")
    volume = read_volume(tmp_path / "p.png", is_label_map=is_label_map)
    assert volume.array.shape == (5, 3, 1)
    assert volume.is_picture
    assert volume.is_integer
    if isinstance(expected, tuple):
        assert volume.colours is not None
        np.testing.assert_array_equal(volume.colours[0, 0, 0], expected)
    else:
        assert volume.colours is None
        assert np.unique(volume.array).tolist() == [expected]


def test_windows_of_pictures():
    contract = {"target": {"kind": "window", "low": 0, "high": 255, "unit": "grey levels"}}
    display = display_from(contract, is_paired=False, is_masked=False)
    assert (display.target_window, display.unit, display.is_paired) == ((0.0, 255.0), "grey levels", False)


def test_volumes_without_targets(make_run):
    folder = make_run(case_ids=["A", "B"])
    file = folder / "evaluation" / "cases.csv"
    cases = pd.read_csv(file)
    cases = cases[cases["method"] == "model"].drop(columns=[name for name in cases if name.endswith(("_hu", "_db"))])
    cases.drop(columns="ssim").to_csv(file, index=False)
    row = ["model", "texture_kid", "", 2, 3.25, "", ""]
    columns = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
    pd.DataFrame([row], columns=columns).to_csv(folder / "evaluation" / "summary.csv", index=False)
    page, text = page_of(folder)
    assert "<figcaption>Target" not in page
    assert page.count("<figcaption>Prediction</figcaption>") == 2
    assert "The prediction is shown from −500 to 1000 HU" in text
    assert "Radiological convention" in text
    assert "largest mean error" not in text


def test_a_verdict_without_baseline_is_not_drawn_as_a_missing_picture(make_pictures):
    page, _ = page_of(make_pictures(key_metric="texture_kid"))
    assert 'class="verdict none"' in page
    assert not re.search(r"\.none\b", page)

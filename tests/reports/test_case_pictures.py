import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_synth.reports.case_pictures import Display, collect, display_from, draw, error_limit
from monai_synth.reports.results import worst_first
from monai_synth.reports.run_folder import read_run

DISPLAY = Display()


def first_row(folder: Path) -> dict:
    return worst_first(read_run(folder).cases).to_dict("records")[0]


def pictures_of(folder: Path, **changes):
    return collect({**first_row(folder), **changes}, run_dir=folder, display=DISPLAY, has_worst_slice=True)


def sources(folder: Path) -> list[str]:
    pictures = pictures_of(folder)
    return [panel.source for cut in pictures.slices for panel in draw(cut, pictures, display=DISPLAY, limit=300)]


def test_worst_case_shows_centre_and_worst_slice(make_run):
    pictures = pictures_of(make_run(case_ids=["A"]))
    assert [cut.view.reason for cut in pictures.slices] == [
        "through the mask's centre",
        "largest mean error inside the mask",
    ]
    assert pictures.notes == []
    centre, worst = (np.abs(cut.error[cut.mask]).mean() for cut in pictures.slices)
    assert worst > centre
    assert f"MAE inside the mask of this slice: {worst:.1f} HU" in pictures.slices[1].caption


@pytest.mark.parametrize("flip", [(0,), (1,), (0, 1, 2)])
def test_a_flipped_affine_displays_the_same(make_run, flip):
    assert sources(make_run("flipped", case_ids=["A"], flip=flip)) == sources(make_run("plain", case_ids=["A"]))


@pytest.mark.parametrize("shape", [(1, 41, 37), (41, 1, 37), (41, 37, 1)])
def test_a_single_slice_works_along_any_axis(make_run, shape):
    pictures = pictures_of(make_run(case_ids=["A"], shape=shape))
    assert len(pictures.slices) == 1
    panels = draw(pictures.slices[0], pictures, display=DISPLAY, limit=300)
    assert all(panel.source for panel in panels)
    assert pictures.slices[0].view.axis == shape.index(1)


def test_a_lost_prediction_leaves_the_rest(make_run):
    folder = make_run(case_ids=["A"])
    Path(first_row(folder)["prediction"]).unlink()
    pictures = pictures_of(folder)
    panels = draw(pictures.slices[0], pictures, display=DISPLAY, limit=300)
    assert [panel.source is None for panel in panels] == [False, False, True, True]
    assert "file is missing" in panels[2].reason


def test_a_run_that_moved_still_finds_its_predictions(make_run):
    pictures = pictures_of(make_run(case_ids=["A"]), prediction="/gone/000.nii.gz")
    assert pictures.slices[0].error is not None


def test_files_that_contradict_the_table_are_noticed(make_run):
    assert any("another evaluation" in note for note in pictures_of(make_run(case_ids=["A"]), mae_hu=12.0).notes)


def test_another_grid_is_not_compared(make_run):
    folder = make_run(case_ids=["A"])
    file = Path(first_row(folder)["prediction"])
    image = nib.load(file)
    array = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(array[:-1], image.affine), file)
    pictures = pictures_of(folder)
    assert "another grid" in pictures.reasons["prediction"]
    assert pictures.slices[0].error is None
    shifted = image.affine.copy()
    shifted[0, 3] += 8
    nib.save(nib.Nifti1Image(array, shifted), file)
    assert any("up to 8.0 mm away" in note for note in pictures_of(folder).notes)


def test_voxels_that_are_not_finite_are_counted(make_run):
    folder = make_run(case_ids=["A"])
    file = Path(first_row(folder)["prediction"])
    image = nib.load(file)
    array = np.asarray(image.dataobj).astype(np.float32)
    array[30, 28, 7] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), file)
    assert any(note.startswith("1 voxels inside the mask are not finite") for note in pictures_of(folder).notes)


def test_a_label_map_is_no_grey_image(make_run):
    folder = make_run(case_ids=["A"])
    pictures = pictures_of(folder, condition=first_row(folder)["mask"])
    panel = draw(pictures.slices[0], pictures, display=DISPLAY, limit=300)[0]
    assert pictures.is_label_map
    assert panel.scale == ("label map, one colour per id",)


def test_one_error_limit_for_all_cases(make_run):
    folder = make_run(case_ids=["A", "B"])
    rows = worst_first(read_run(folder).cases).to_dict("records")
    cases = [collect(row, run_dir=folder, display=DISPLAY, has_worst_slice=False) for row in rows]
    errors = np.concatenate([np.abs(cut.error[cut.mask]) for case in cases for cut in case.slices])
    limit = error_limit(cases)
    assert (errors <= limit).mean() >= 0.95
    assert error_limit([]) == 10


def test_windows_follow_the_contract_of_the_run(make_run):
    run = json.loads((make_run(case_ids=["A"], shape=(21, 19, 1)) / "run.json").read_text())
    assert display_from(run["intensity"]).target_window == (-500.0, 1000.0)
    cbct = {
        "condition": {"kind": "window", "low": -1000, "high": 2000, "unit": "HU"},
        "target": run["intensity"]["target"],
    }
    assert display_from(cbct).is_condition_in_window
    suv = {"target": {"kind": "window", "low": 0, "high": 15, "unit": "SUV"}}
    assert display_from(suv).target_window == (0.0, 15.0)
    assert display_from({"target": {"kind": "zscore", "num_std": 3, "unit": "a.u."}}).target_window is None

"""Both sides of a training without pairs are looked at before it begins."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from monai_synth.data.manifest import Manifest, manifest_from_table
from monai_synth.engines import require_cases, require_one_pixel_size
from monai_synth.errors import GeometryError, ManifestError


def make_cohort(
    folder: Path, mr_mm: list[tuple[float, float, float]], ct_mm: list[tuple[float, float, float]]
) -> Manifest:
    """Patients who have an MR or a CT; the MR are stored with the feet-head axis first."""
    rows = []
    for role, sizes in (("mr", mr_mm), ("ct", ct_mm)):
        for number, (right, front, head) in enumerate(sizes):
            affine = np.diag([right, front, head, 1.0])
            if role == "mr":
                affine = affine[:, [2, 0, 1, 3]] * [1, -1, 1, 1]
            name = f"{role}{number}"
            nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), folder / f"{name}.nii.gz")
            rows.append({"patient_id": name, "case_id": name, "split": "train", role: f"{name}.nii.gz"})
    return manifest_from_table(pd.DataFrame(rows), file=folder / "cohort.csv")


def test_pixels_of_other_size_are_refused_with_a_common_one(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, [(0.5, 0.5, 4.0), (0.6, 0.6, 4.0), (0.5, 0.5, 5.0)], [(1.0, 0.9, 2.0)] * 2)
    with pytest.raises(GeometryError) as caught:
        require_one_pixel_size(cohort, "mr", "ct")
    message = str(caught.value)
    assert "'mr' 0.5 x 0.5 mm (median of 3) and 'ct' 1 x 0.9 mm (median of 2)" in message
    assert message.endswith('--spacing_mm "[1, 0.9, 4]".')
    require_one_pixel_size(cohort, "mr", "ct", spacing_mm=[1, 1, 4])


def test_slice_thickness_and_small_differences_do_not_matter(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, [(1.0, 1.0, 4.0)] * 2, [(0.98, 1.04, 2.0)])
    require_one_pixel_size(cohort, "mr", "ct")


def test_a_header_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path, [(1.0, 1.0, 4.0)], [(1.0, 1.0, 2.0)])
    (tmp_path / "ct0.nii.gz").write_text("no image")
    with pytest.raises(ManifestError, match=r"header of .*ct0\.nii\.gz cannot be read"):
        require_one_pixel_size(cohort, "mr", "ct")


def test_the_number_of_cases_that_are_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = make_cohort(tmp_path, [(1.0, 1.0, 4.0)], [(1.0, 1.0, 2.0)] * 2)
    require_cases(cohort, "ct", purpose="validating", way_out="Add CT.")
    assert capsys.readouterr().out == "validating: 2 of 3 cases, which have 'ct'\n"
    with pytest.raises(
        ManifestError, match=r"validating: none of the 3 cases in .* has all of 'mr', 'ct'\. Add pairs\."
    ):
        require_cases(cohort, "mr", "ct", purpose="validating", way_out="Add pairs.")

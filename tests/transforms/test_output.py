"""Rounding, naming and writing of synthetic images."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from monai_synth.transforms import NameByCased, RoundToIntegerd, VolumeWriter


def test_rounds_to_the_nearest_integer_not_towards_zero() -> None:
    out = RoundToIntegerd("pred")({"pred": torch.tensor([1.9, -1.9, 0.4, -1000.6])})
    assert out["pred"].tolist() == [2.0, -2.0, 0.0, -1001.0]


def test_names_by_case_and_leaves_what_has_no_case() -> None:
    def image() -> MetaTensor:
        return MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "/somewhere/mr.nii.gz"})

    named = NameByCased("pred")({"pred": image(), "case_id": "P 7"})
    assert named["pred"].meta["filename_or_obj"] == "P 7.nii.gz"
    assert NameByCased("pred")({"pred": image()})["pred"].meta["filename_or_obj"] == "/somewhere/mr.nii.gz"


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 5, 4, 1), (1, 1, 4, 3), (2, 5, 4, 3)])
def test_a_volume_is_written_as_a_volume(shape: tuple[int, ...], tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    pred = MetaTensor(torch.arange(float(np.prod(shape))).reshape(shape), affine=affine)
    pred.meta |= {"filename_or_obj": "case.nii.gz", "spatial_shape": np.array(shape[1:])}
    pred.meta["original_affine"] = affine.numpy()
    options = {"output_dtype": np.int16, "output_postfix": "", "separate_folder": False, "resample": False}
    save = SaveImaged("pred", output_dir=str(tmp_path), writer=VolumeWriter, print_log=False, **options)
    save({"pred": pred})
    written = nib.load(tmp_path / "case.nii.gz")
    assert written.shape == (shape[1:] if shape[0] == 1 else (*shape[1:], shape[0]))
    assert written.get_data_dtype() == np.int16
    np.testing.assert_allclose(written.affine, affine)
    voxels = np.asarray(written.dataobj).reshape(*shape[1:], shape[0])
    np.testing.assert_array_equal(voxels, np.moveaxis(pred.numpy(), 0, -1))

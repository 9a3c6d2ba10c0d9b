"""The header says along which axis of the patient voxels have which size."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from monai.transforms import Compose, LoadImage, Orientation

from monai_synth.data.voxel_sizes import read_spacing_mm

# Columns: directions of the voxel axes; a sagittal stack with oblique axes.
TILT = np.deg2rad(10)
SAGITTAL = np.array([[0, 0, 1], [np.cos(TILT), np.sin(TILT), 0], [np.sin(TILT), -np.cos(TILT), 0]])


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_sizes_are_those_after_turning_to_ras(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
    image.SetSpacing((0.7, 0.9, 5.0))
    image.SetDirection(SAGITTAL.ravel().tolist())
    file = tmp_path / f"image{ending}"
    sitk.WriteImage(image, str(file))
    expected = (5.0, 0.7, 0.9)
    np.testing.assert_allclose(read_spacing_mm(file), expected, rtol=1e-5)
    load = Compose([LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS")])
    np.testing.assert_allclose(load(str(file)).pixdim, expected, rtol=1e-5)


def test_a_series_has_the_distance_of_its_slices(tmp_path: Path) -> None:
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(3):
        image = sitk.GetImageFromArray(np.zeros((1, 6, 5), np.int16))
        image.SetSpacing((0.7, 0.9, 1.0))
        tags = {"0020|0032": f"0\\0\\{2.5 * number}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(number)}
        tags |= {
            "0008|0060": "MR",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
        }
        tags |= {"0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{number}"}
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(tmp_path / f"{number}.dcm"))
        writer.Execute(image)
    np.testing.assert_allclose(read_spacing_mm(tmp_path), (0.7, 0.9, 2.5), rtol=1e-5)

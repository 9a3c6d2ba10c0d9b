"""Size of the voxels of an image, from its header alone."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name that its users know)
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from monai_synth.data.image_files import NIFTI_SUFFIXES
from monai_synth.errors import ManifestError

__all__ = ["read_spacing_mm"]


def read_spacing_mm(path: str | Path) -> tuple[float, float, float]:
    """Voxel size of a volume in mm from right to left, back to front and feet to head, as MONAI's RAS has the axes.

    Args:
        path: NIfTI, MetaImage or NRRD, or a folder with a DICOM series, whose first two slices say how far slices are
            apart. The voxels are not read.

    Raises:
        ManifestError: if the header cannot be read.
    """
    file = Path(path)
    try:
        affine = nib.load(file).affine if file.name.lower().endswith(NIFTI_SUFFIXES) else _itk_affine(file)
        sizes_mm = voxel_sizes(affine)
        axes = list(io_orientation(affine)[:, 0])
        right, front, head = (float(sizes_mm[axes.index(axis)]) for axis in range(3))
    except Exception as error:  # readers raise anything on damaged files
        raise ManifestError(
            f"The header of {file} cannot be read ({error}). `monai-synth manifest check` lists all such files."
        ) from error
    return right, front, head


def _itk_affine(path: Path) -> np.ndarray:
    """Affine without its origin; LPS and RAS differ in signs only."""
    files = [str(path)]
    if path.is_dir():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
        files = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0]))
    readers = [sitk.ImageFileReader() for _ in files[:2]]
    for reader, file in zip(readers, files, strict=False):
        reader.SetFileName(file)
        reader.ReadImageInformation()
    steps_mm = np.array(readers[0].GetSpacing())
    if len(readers) > 1:
        steps_mm[2] = np.linalg.norm(np.subtract(readers[1].GetOrigin(), readers[0].GetOrigin()))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(readers[0].GetDirection(), (3, 3)) * steps_mm
    return affine

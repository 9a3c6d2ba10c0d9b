"""Read one image file to its end, with its grid and with what is wrong with it.

Voxel axes are called x, y, z in the order of the file's array; world coordinates are RAS in mm.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name that its users know)
from PIL import Image

from monai_synth.data.grids import Grid, sizes
from monai_synth.errors import ManifestError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
Severity = Literal["error", "warning"]
_EXIF_ORIENTATION = 0x0112
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Problem(NamedTuple):
    """What is wrong with a file, which rule it breaks and the way out."""

    rule: str
    message: str
    way_out: str
    severity: Severity = "error"


class RefusedError(ManifestError):
    """An image that is not looked at further."""

    def __init__(self, rule: str, message: str, way_out: str) -> None:
        super().__init__(message)
        self.problem = Problem(rule, message, way_out)


def read_image(path: Path) -> tuple[np.ndarray, Grid, list[Problem]]:
    """Read a whole image: data with axes (x, y, z) or, where the order does not matter, the reader's; and its grid."""
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES) and path.is_file():
        return _read_nifti(path)
    if name.endswith(PICTURE_SUFFIXES) and path.is_file():
        return _read_picture(path)
    if path.is_dir():
        image, problems = _read_dicom(path)
    elif name.endswith(ITK_SUFFIXES):
        image, problems = sitk.ReadImage(str(path)), []
    else:
        known = ", ".join((*NIFTI_SUFFIXES, *ITK_SUFFIXES, *PICTURE_SUFFIXES))
        raise RefusedError("format", f"{path.name}: the ending is not one of {known}", "convert it to .nii.gz")
    if image.GetDimension() != 3:
        raise _not_3d(path, image.GetSize())
    if image.GetNumberOfComponentsPerPixel() > 1:
        message = f"{path.name} has {image.GetNumberOfComponentsPerPixel()} channels per voxel; images have one"
        raise RefusedError("one channel", message, "write one file and one role per channel")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    grid = Grid(image.GetSize(), _LPS_TO_RAS @ affine)  # ITK is LPS
    return sitk.GetArrayViewFromImage(image).copy(), grid, problems


def _read_picture(path: Path) -> tuple[np.ndarray, Grid, list[Problem]]:
    """A picture as MONAI's ``PILReader`` reads it, ``(1, rows, columns)`` with colours as a last axis, and its grid.

    Pixels count as 1 x 1: the dots per inch of a file are about paper, and differ between a photograph and its mask.
    """
    with Image.open(path) as picture:
        if (count := getattr(picture, "n_frames", 1)) > 1:
            message = f"{path.name} holds {count} pictures; readers take the first and say nothing"
            raise RefusedError("one picture", message, "write one file for each, or a stack as .nii.gz")
        problems = []
        if (turned := picture.getexif().get(_EXIF_ORIENTATION, 1)) != 1:
            message = f"{path.name} has the EXIF orientation {turned}: viewers turn it, MONAI's readers do not"
            problems.append(Problem("upright", message, "store the pixels upright, without that tag", "warning"))
        data = np.asarray(picture)
        grid = Grid((*picture.size, 1), _LPS_TO_RAS)
    return data[None], grid, problems


def _not_3d(path: Path, shape: Sequence[int]) -> RefusedError:
    message = f"{path.name} is {len(shape)}D with shape {sizes(shape)}; images are 3D (an axis may have 1 voxel)"
    way_out = "write one 3D file per time or channel" if len(shape) > 3 else "add an axis of one voxel"
    return RefusedError("3D", message, way_out)


def _read_nifti(path: Path) -> tuple[np.ndarray, Grid, list[Problem]]:
    raw = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        raw = gzip.decompress(raw)  # to the end: verifies the checksum, which a lazy reader does not reach
    kinds = [each for each in (nib.Nifti1Image, nib.Nifti2Image) if each.header_class.may_contain_header(raw[:540])]
    if not kinds:
        raise RefusedError("readable", f"{path.name} holds no NIfTI header", "copy or export the file again")
    kind = kinds[0]
    header = kind.header_class(raw[: kind.header_class.template_dtype.itemsize], check=False)
    shape = header.get_data_shape()
    if len(shape) != 3:
        raise _not_3d(path, shape)
    problems = []
    if (steps := header["pixdim"][1:4]).min() <= 0 or not np.isfinite(steps).all():
        message = f"{path.name} has the voxel spacing {sizes(steps)} mm in its header (pixdim)"
        problems.append(Problem("spacing", message, "export it again with a spacing above 0"))
    image = kind.from_bytes(raw)
    if image.affine is None or not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine)) < 1e-12:
        message = f"{path.name}: the affine spans no volume: {np.asarray(image.affine).tolist()}"
        raise RefusedError("affine", message, "export it again from DICOM")
    grid = Grid(shape, image.affine)
    sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    if sform is not None and qform is not None:
        distance_mm = np.linalg.norm(Grid(shape, sform).corners_mm() - Grid(shape, qform).corners_mm(), axis=1).max()
        if distance_mm > 0.1:
            message = f"{path.name}: sform and qform of the header disagree by up to {distance_mm:.1f} mm"
            problems.append(Problem("one affine", message, "set both to the right one: readers differ", "warning"))
    return np.asanyarray(image.dataobj), grid, problems


def refuse_bad_series(folder: Path) -> None:
    """Stop on a DICOM folder that a reader would turn into a wrong volume without a word.

    Raises:
        ManifestError: if the folder holds several series, or slices at uneven distances.
    """
    _, problems = _read_dicom(folder)
    for problem in problems:
        raise ManifestError(f"DICOM folder {folder}: {problem.message}. Way out: {problem.way_out}.")


def _read_dicom(folder: Path) -> tuple[sitk.Image, list[Problem]]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        message = f"folder {folder.name} holds {len(series)} readable DICOM series; it should hold one"
        raise RefusedError("one series", message, "put every series into a folder of its own")
    reader = sitk.ImageSeriesReader()
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    if len(files) < 3 or not all(reader.HasMetaDataKey(number, "0020|0032") for number in range(len(files))):
        return image, []
    places = [
        [float(value) for value in reader.GetMetaData(number, "0020|0032").split("\\")] for number in range(len(files))
    ]
    gaps_mm = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if np.ptp(gaps_mm) > 0.01 + 0.01 * np.median(gaps_mm):
        message = f"slices are {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm apart: one may be missing"
        return image, [Problem("even slices", message, "complete the series, or resample it")]
    return image, []

"""Images for display: any file to a ``(x, y, z)`` array in nearest RAS order.

RAS: the index grows towards the patient's right, anterior and superior. Axes are permuted and flipped, never resampled.
"""

import ast
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from PIL import Image

from monai_synth.data.image_files import PICTURE_SUFFIXES

Array = NDArray[np.float32]
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    SyntaxError,  # Pillow, for a broken PNG
    zlib.error,
    ImageFileError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Volume:
    """Image in nearest RAS order.

    Attributes:
        array: ``(x, y, z)``.
        affine: ``(4, 4)``, voxel index to RAS millimetres.
        is_integer: whether the file stores integers.
        num_channels: channels in the file; the first one is in ``array``.
        colours: ``(x, y, 1, 3)`` of a picture with red, green and blue; ``None`` for all else.
        is_picture: a photograph or the like: its axes are not a patient's, its pixels have no size.
    """

    array: Array
    affine: NDArray[np.float64]
    is_integer: bool
    num_channels: int
    colours: Array | None = None
    is_picture: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along x, y, z."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(sizes[0]), float(sizes[1]), float(sizes[2])

    @property
    def tilt_deg(self) -> float:
        """Largest angle between a voxel axis and its patient axis; 0 for grids that are not oblique."""
        cosines = np.abs(np.diag(self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)))
        return float(np.degrees(np.arccos(np.clip(cosines.min(), 0.0, 1.0))))


class UnreadableImage(Exception):  # noqa: N818  (not an error of the user: the report says it in place of the picture)
    """A picture that cannot be shown; the message is the reason."""


def first_path(cell: str) -> tuple[str, int]:
    """First file of a cell of ``cases.csv`` and the number of files; a cell is a path or a list of paths."""
    if not cell.startswith("["):
        return cell, 1
    try:
        files = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return cell, 1
    return (str(files[0]), len(files)) if files else ("", 0)


def read_volume(file: Path, *, is_label_map: bool = False) -> Volume:
    """Read NIfTI, MetaImage, NRRD, DICOM folder, pictures or any other file of SimpleITK.

    Args:
        file: image file; two-dimensional images get a third axis of one voxel.
        is_label_map: whether the ids of a picture with a palette count, not its colours.

    Raises:
        UnreadableImage: when the file is missing or damaged.
    """
    if not file.exists():
        raise UnreadableImage(f"file is missing: {file}")
    try:
        is_picture = file.name.lower().endswith(PICTURE_SUFFIXES)
        picture = _read_picture(file, is_label_map=is_label_map) if is_picture else None
        if picture is not None:
            stored, affine = picture, np.diag([-1.0, -1.0, 1.0, 1.0])
        else:
            stored, affine = _read_nifti(file) if file.name.endswith((".nii", ".nii.gz")) else _read_itk(file)
    except _DAMAGED as error:
        reason = str(error).strip().splitlines()
        raise UnreadableImage(f"cannot be read: {file} ({reason[-1] if reason else type(error).__name__})") from error
    num_channels, colours = 1, None
    if stored.ndim > 3:
        flat = stored.reshape(*stored.shape[:3], -1)
        num_channels, stored = flat.shape[3], flat[..., 0]
        if picture is not None and num_channels == 3:
            colours = np.ascontiguousarray(apply_orientation(flat, io_orientation(affine)), dtype=np.float32)
    stored = stored.reshape(stored.shape + (1,) * (3 - stored.ndim))
    orientation = io_orientation(affine)
    if np.isnan(orientation).any():
        raise UnreadableImage(f"has an affine without three directions: {file}")
    turned = apply_orientation(stored, orientation)
    return Volume(
        array=np.ascontiguousarray(turned, dtype=np.float32),
        affine=affine @ inv_ornt_aff(orientation, stored.shape),
        is_integer=bool(np.issubdtype(stored.dtype, np.integer)),
        num_channels=num_channels,
        colours=colours,
        is_picture=picture is not None,
    )


def _read_picture(file: Path, *, is_label_map: bool) -> NDArray[np.generic] | None:
    """``(x, y, 1)`` of a grey picture, ``(x, y, 1, 3)`` of a coloured one; ``None`` for a stack of pictures.

    Of a palette the ids count in a label map, the colours in an image.
    """
    with Image.open(file) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            return None
        is_plain = picture.mode in ("L", "1", "F", "RGB") or picture.mode.startswith("I")
        if is_plain or (picture.mode == "P" and is_label_map):
            pixels = np.asarray(picture)
        else:
            pixels = np.asarray(picture.convert("L" if picture.mode == "LA" else "RGB"))
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    return pixels.swapaxes(0, 1)[:, :, None]


def _read_nifti(file: Path) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    image = nib.load(file)
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError(f"{type(image).__name__} is not NIfTI")
    return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)


def _read_itk(file: Path) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    if file.is_dir():
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(file))
        if not names:
            raise ValueError("the folder holds no DICOM series")
        image = SimpleITK.ReadImage(names)
    else:
        image = SimpleITK.ReadImage(str(file))
    num_dims = image.GetDimension()
    array = SimpleITK.GetArrayFromImage(image)  # (z, y, x[, channel])
    order = tuple(range(num_dims - 1, -1, -1)) + tuple(range(num_dims, array.ndim))
    array = array.transpose(order)
    if num_dims == 2 and array.ndim == 3:  # a colour picture: (x, y, channel) to (x, y, 1, channel)
        array = array[:, :, None, :]
    used = min(num_dims, 3)
    direction = np.eye(3)
    direction[:used, :used] = np.array(image.GetDirection()).reshape(num_dims, num_dims)[:used, :used]
    spacing, origin = np.ones(3), np.zeros(3)
    spacing[:used], origin[:used] = image.GetSpacing()[:used], image.GetOrigin()[:used]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK is LPS

"""Which slices of a case are shown, and how a slice is laid out on the page.

Radiological convention: the patient's right is on the left of the picture; sagittal slices have anterior on the left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_synth.reports.volumes import Array, Volume

PLANES = ("sagittal", "coronal", "axial")  # by the axis that is cut, in RAS order
AXIS_LETTERS = ("x", "y", "z")
# (left, right, top, bottom) of the picture
EDGES = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
COUNTED_FROM = ("left", "posterior", "inferior")
MARGIN_MM = 15.0
MIN_AREA_FRACTION = 0.1


@dataclass(frozen=True)
class View:
    """One slice of a case: the axis that is cut, the 0-based index in RAS order, and why it was chosen."""

    axis: int
    index: int
    reason: str

    @property
    def plane(self) -> str:
        """``axial``, ``coronal`` or ``sagittal``."""
        return PLANES[self.axis]


def cut_axis(shape: tuple[int, ...]) -> int:
    """Axis to cut: the one of a single voxel, else z (axial)."""
    singletons = [axis for axis in (2, 1, 0) if shape[axis] == 1]
    return singletons[0] if singletons else 2


def centre_view(mask: NDArray[np.bool_]) -> View:
    """Slice through the centre of a mask ``(x, y, z)``; the middle of the image where the mask is empty."""
    axis = cut_axis(mask.shape)
    if mask.shape[axis] == 1:
        return View(axis, 0, "the only slice")
    area = _per_slice(mask, axis)
    filled = np.flatnonzero(area)
    if filled.size == 0:
        return View(axis, mask.shape[axis] // 2, "middle of the image, for the mask is empty")
    centre = float(np.average(np.arange(area.size), weights=area))
    return View(axis, int(filled[np.argmin(np.abs(filled - centre))]), "through the mask's centre")


def worst_view(error: Array, mask: NDArray[np.bool_]) -> View | None:
    """Slice with the largest mean absolute error inside the mask.

    Slices that hold less than a tenth of the largest slice of the mask do not take part: a few voxels at the
    end of a mask would win by noise.

    Args:
        error: ``(x, y, z)``, prediction - target.
        mask: same shape.

    Returns:
        The slice, or ``None`` for a single slice, an empty mask or an error that is nowhere finite.
    """
    axis = cut_axis(mask.shape)
    counted = mask & np.isfinite(error)
    area = _per_slice(counted, axis)
    if mask.shape[axis] == 1 or area.max() == 0:
        return None
    total = _per_slice(np.where(counted, np.abs(error), 0.0), axis)
    mean = np.where(area >= MIN_AREA_FRACTION * area.max(), total / np.maximum(area, 1), -1.0)
    return View(axis, int(np.argmax(mean)), "largest mean error inside the mask")


def _per_slice(array: NDArray[np.generic], axis: int) -> NDArray[np.float64]:
    others = tuple(other for other in range(3) if other != axis)
    return np.sum(array, axis=others, dtype=np.float64)


def crop_box(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """Box of the mask with a margin of 15 mm; the whole image where the mask is empty."""
    if not mask.any():
        return slice(None), slice(None), slice(None)
    box = []
    for axis in range(3):
        filled = np.flatnonzero(_per_slice(mask, axis))
        margin = round(MARGIN_MM / spacing_mm[axis])
        box.append(slice(max(0, int(filled[0]) - margin), int(filled[-1]) + margin + 1))
    return box[0], box[1], box[2]


def lay_out(array: NDArray[np.generic], view: View, box: tuple[slice, slice, slice]) -> NDArray[np.generic]:
    """Cut one slice from ``(x, y, z, ...)`` and turn it into picture rows x columns, first row on top."""
    inside = [box[axis] for axis in range(3) if axis != view.axis]
    return np.take(array, view.index, axis=view.axis)[inside[0], inside[1]][::-1, ::-1].swapaxes(0, 1)


def pixel_mm(volume: Volume, view: View) -> tuple[float, float]:
    """Height and width of a pixel of the picture."""
    columns, rows = (size for axis, size in enumerate(volume.spacing_mm) if axis != view.axis)
    return rows, columns


def position_mm(volume: Volume, view: View) -> float:
    """Patient coordinate (RAS) of the centre of a slice along the axis that is cut."""
    centre = (np.array(volume.array.shape) - 1) / 2
    centre[view.axis] = view.index
    return float((volume.affine @ np.append(centre, 1.0))[view.axis])

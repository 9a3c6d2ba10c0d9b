"""Where the voxels of an image are, and how two images differ in that, in words.

Voxel axes are called x, y, z in the order of the array; world coordinates are RAS in mm.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel.affines import apply_affine, voxel_sizes

from monai_synth.errors import GeometryError

GRID_TOLERANCE_MM = 1e-3


@dataclass(frozen=True)
class Grid:
    """Where an image's voxels are: shape and a ``(4, 4)`` affine from voxel index to RAS mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Size of a voxel along each axis."""
        return voxel_sizes(self.affine)

    def corners_mm(self) -> np.ndarray:
        """World positions of the eight outermost voxel centres, ``(8, 3)``."""
        return apply_affine(self.affine, list(itertools.product(*((0, size - 1) for size in self.shape))))


def refuse_other_grids(images: Mapping[str, Any], *, case: str, tolerance_mm: float = 1e-2) -> None:
    """Stop where the images of a case are not voxel for voxel in the same place.

    Args:
        images: key to image ``(C, *spatial)``; only MetaTensors with three axes know where they are, others
            are passed over.
        case: for the message.
        tolerance_mm: largest distance of corresponding corners. Larger than for files, because resampling rounds.

    Raises:
        GeometryError: naming the case, the keys and the difference.
    """
    grids = {
        key: Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))
        for key, image in images.items()
        if isinstance(image, MetaTensor) and image.ndim == 4
    }
    first = next(iter(grids), "")
    for key, grid in grids.items():
        if words := grid_difference(grids[first], grid, first, tolerance_mm=tolerance_mm):
            raise GeometryError(
                f"Case {case!r}: {key!r} is not on the grid of {first!r}: {'; '.join(words)}. Resample or register "
                "one onto the other; `monai-synth manifest check` lists all such cases."
            )


def grid_difference(reference: Grid, other: Grid, name: str, *, tolerance_mm: float = GRID_TOLERANCE_MM) -> list[str]:
    """How ``other`` differs from ``reference`` (the role ``name``), in words; empty where the grids are equal."""
    same_shape = reference.shape == other.shape
    words = [] if same_shape else [f"shape is {sizes(other.shape)} where {name!r} has {sizes(reference.shape)}"]
    # The spacing along an axis of one voxel moves nothing, so it is not compared.
    counts = np.array([a > 1 or b > 1 for a, b in zip(reference.shape, other.shape, strict=True)])
    if np.abs(reference.spacing_mm - other.spacing_mm)[counts].max(initial=0) > tolerance_mm:
        words.append(f"spacing is {sizes(other.spacing_mm)} mm where {name!r} has {sizes(reference.spacing_mm)} mm")
    distance_mm = math.inf
    if same_shape:
        distance_mm = float(np.linalg.norm(reference.corners_mm() - other.corners_mm(), axis=1).max())
        if distance_mm <= tolerance_mm:
            return words
    words += _direction_difference(reference, other, name)
    centres_mm = [apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2) for grid in (reference, other)]
    shift_mm = centres_mm[1] - centres_mm[0]
    if (length_mm := float(np.linalg.norm(shift_mm))) > max(tolerance_mm, 1e-6 * np.abs(centres_mm).max()):
        parts = ", ".join(f"{axis} {step:+.1f}" for axis, step in zip("xyz", shift_mm.round(1) + 0.0, strict=True))
        words.append(f"shifted by {_number(length_mm)} mm ({parts} in world coordinates)")
    if not words:
        words.append(f"corners are up to {_number(distance_mm)} mm away from those of {name!r}")
    return words


def covers_same_box(reference: Grid, other: Grid) -> bool:
    """Whether both have the same eight corners, in any order."""
    steps_mm = np.linalg.norm(reference.corners_mm()[:, None] - other.corners_mm()[None], axis=-1)
    return bool(steps_mm.min(axis=0).max() <= GRID_TOLERANCE_MM and steps_mm.min(axis=1).max() <= GRID_TOLERANCE_MM)


def _direction_difference(reference: Grid, other: Grid, name: str) -> list[str]:
    """Permutation, flips and remaining rotation of the voxel axes."""
    directions = [grid.affine[:3, :3] / grid.spacing_mm for grid in (reference, other)]
    between = np.linalg.solve(directions[0], directions[1])  # column j: the other's axis j along the reference's axes
    nearest = np.abs(between).argmax(axis=0)
    if len(set(nearest)) < 3:
        return [f"rotated against {name!r} by more than 45 degrees"]
    words = []
    if not np.array_equal(nearest, [0, 1, 2]):
        words.append(f"axes permuted: its x, y, z run along {', '.join('xyz'[axis] for axis in nearest)} of {name!r}")
    signs = np.sign(between[nearest, [0, 1, 2]])
    words += [
        f"flipped along axis {'xyz'[axis]}" for axis, sign in sorted(zip(nearest, signs, strict=True)) if sign < 0
    ]
    aligned = np.zeros((3, 3))
    aligned[nearest, [0, 1, 2]] = signs
    cosine = (np.trace(between @ aligned.T) - 1) / 2
    angle = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
    if angle > 0.05:
        words.append(f"rotated against {name!r} by {angle:.1f} degrees")
    return words


def sizes(values: Any) -> str:
    """Numbers as in ``1 x 1 x 2.5``."""
    return " x ".join(f"{float(value):g}" for value in values)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"

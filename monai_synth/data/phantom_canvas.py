"""A voxel canvas on which shapes are painted with partial volume, and the few shapes that it takes to draw a head.

A shape is a *distance*: an array in mm, negative inside, positive outside, right to first order near its surface.
Points are triples of arrays ``(x, y, z)`` in mm that broadcast against each other, in the frame of the drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
Points = tuple[Array, Array, Array]
Block = tuple[slice, slice, slice]


class Tissue(NamedTuple):
    """What one tissue looks like in both modalities."""

    ct_hu: float
    mr: float
    label: int


@dataclass
class Canvas:
    """CT (HU), MR (arbitrary units) and labels of one grid, all of shape ``(X, Y, Z)``.

    Args:
        points: coordinates of the voxel centres in the frame of the drawing, in mm.
        index_from_point: ``(4, 4)``, from the frame of the drawing (without its warp) to voxel indices.
        softness_mm: width of the ramp between two tissues, about one voxel.
        margin_mm: how far the warp may move a point; blocks grow by it.
    """

    points: Points
    index_from_point: NDArray[np.float64]
    softness_mm: float
    margin_mm: float
    ct: Array = field(init=False)
    mr: Array = field(init=False)
    labels: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        """Start with air."""
        shape = self.points[0].shape
        self.ct = np.full(shape, -1000.0, dtype=np.float32)
        self.mr = np.zeros(shape, dtype=np.float32)
        self.labels = np.zeros(shape, dtype=np.uint8)

    def block(self, low: Point, high: Point) -> Block:
        """Smallest block of voxels that holds the box from ``low`` to ``high`` (mm) and the margin; may be empty."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        corners = corners + self.margin_mm * np.sign(corners - corners.mean(axis=0))
        index = corners @ self.index_from_point[:3, :3].T + self.index_from_point[:3, 3]
        start = np.floor(index.min(axis=0)).astype(int)
        stop = np.ceil(index.max(axis=0)).astype(int) + 1
        shape = self.labels.shape
        x, y, z = (slice(int(np.clip(start[a], 0, shape[a])), int(np.clip(stop[a], 0, shape[a]))) for a in range(3))
        return x, y, z

    def at(self, block: Block) -> Points:
        """Points of one block, as views."""
        x, y, z = self.points
        return x[block], y[block], z[block]

    def paint(self, distance: NDArray[np.floating], tissue: Tissue, block: Block | None = None) -> None:
        """Lay a tissue over what is there: fully inside, by its share of the voxel at the surface."""
        where = (slice(None), slice(None), slice(None)) if block is None else block
        share = np.clip(np.float32(0.5) - distance.astype(np.float32) * np.float32(1 / self.softness_mm), 0, 1)
        for image, value in ((self.ct[where], tissue.ct_hu), (self.mr[where], tissue.mr)):
            image += share * (np.float32(value) - image)
        self.labels[where][distance < 0] = tissue.label


def ellipsoid(points: Points, centre: Point, radii: Point) -> Array:
    """First-order distance to an ellipsoid with axes along x, y and z."""
    scaled = [(p - np.float32(c)) * np.float32(1 / r) for p, c, r in zip(points, centre, radii, strict=True)]
    value = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    slope = np.sqrt(sum((s * np.float32(1 / r)) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return np.asarray(value * (value - 1) / np.maximum(slope, np.float32(1e-6)), dtype=np.float32)


def tube(points: Points, knots: Sequence[tuple[Point, float]]) -> Array:
    """Distance to a chain of tapered tubes through ``(centre, radius)`` knots."""
    nearest: Array | None = None
    for (start, start_radius), (end, end_radius) in pairwise(knots):
        axis = np.subtract(end, start).astype(np.float32)
        offset = [p - np.float32(s) for p, s in zip(points, start, strict=True)]
        along = sum(o * a for o, a in zip(offset, axis, strict=True)) / np.float32(axis @ axis)
        along = np.clip(along, 0, 1)
        squared = sum((o - along * a) ** 2 for o, a in zip(offset, axis, strict=True))
        distance = np.sqrt(squared) - (np.float32(start_radius) + along * np.float32(end_radius - start_radius))
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    if nearest is None:
        raise ValueError(f"A tube needs two knots or more, not {len(knots)}.")
    return nearest


def join(first: Array, second: Array, blend_mm: float) -> Array:
    """Union of two shapes, with a fillet of about ``blend_mm`` where they meet."""
    share = np.clip(np.float32(0.5) + (second - first) * np.float32(0.5 / blend_mm), 0, 1)
    return second + share * (first - second) - np.float32(blend_mm) * share * (1 - share)


def cut(shape: Array, tool: Array, blend_mm: float) -> Array:
    """``shape`` without ``tool``, the edge rounded by about ``blend_mm``."""
    return -join(-shape, tool, blend_mm)


def smooth_field(rng: np.random.Generator, shape: Sequence[int], num_knots: int) -> Array:
    """Random field ``(X, Y, Z)`` of about zero mean and unit deviation: cubic B-splines on ``num_knots`` per axis.

    The knots are spread over the grid, so the same draw gives the same field on a finer or coarser grid.
    """
    values = rng.standard_normal((num_knots + 3,) * 3).astype(np.float32)
    for size in shape:
        position = np.linspace(0, num_knots, size, dtype=np.float32)[:, None] + 1
        distance = np.abs(position - np.arange(num_knots + 3, dtype=np.float32))
        near = 2 / 3 - distance**2 + distance**3 / 2
        weights = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6).astype(np.float32)
        # tensordot puts the new axis last: after three turns the axes are back in order
        values = np.tensordot(values, weights, axes=(0, 1))
    # a cubic B-spline on unit white noise keeps about 0.479 of its variance per axis
    return np.asarray(values * np.float32(0.479**-1.5), dtype=np.float32)

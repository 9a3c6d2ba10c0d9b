"""Outline of the body in CT and MR: without table, clothes and noise, with lungs and air cavities.

Shapes: volumes ``(X, Y, Z)``, or ``(C, X, Y, Z)`` in the transforms; any axis may be a singleton (one slice). Units:
millimetres, HU for the threshold of CT.

The table is separated by an opening in axial planes, where it is thin; a table plate that lies on the skin without a
gap and thicker than ``2 * opening_mm`` cannot be told from tissue.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.orientations import io_orientation
from scipy import ndimage
from skimage.filters import threshold_otsu

from monai_synth.errors import ConfigError, GeometryError, IntensityError

__all__ = ["BodyMaskd", "MaskBackgroundd", "body_mask"]

# An opening with a disc of radius r rounds a right-angled corner off by (sqrt(2) - 1) r.
_CORNER_LOSS = 2**0.5 - 1
# A region of air cut by the straight sides of the field of view: area / (length on the sides)^2. What lies outside a
# convex body and has two or more sides stays below 1/8; a lung that is cut by a side is above (half a disc 0.39, a
# quarter 0.20).
_CUT_CAVITY = 0.15


def body_mask(
    volume: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    threshold: float | Literal["otsu"] = -400.0,
    axial_axis: int = 2,
    opening_mm: float | None = None,
    bridging_mm: float | None = None,
    piece_mm: float = 30.0,
    sealing_mm: float = 3.0,
    min_volume_fraction: float = 0.5,
) -> np.ndarray:
    """Find the body in one volume.

    Threshold; cavities that are closed in 3D; opening in axial planes, which detaches the table; largest components in
    3D; small pieces that the opening took away, as ears and noses, are given back; cavities in 3D and in every plane.

    Args:
        volume: ``(X, Y, Z)``, or ``(X, Y)`` for one slice.
        spacing_mm: size of a voxel along each axis.
        threshold: tissue is above it (HU); ``"otsu"`` finds it on the square root of the intensities, for MR.
        axial_axis: voxel axis that runs from feet to head; an axis with one voxel takes precedence.
        opening_mm: radius of the opening, half the thickness of the thickest table wall. ``None``: 5 with a number as
            threshold, 1 with ``"otsu"`` (an MR has no table, but a scalp thinner than one).
        bridging_mm: dark bone and air up to twice as wide belong to the body when tissue lies on both sides. ``None``:
            0 with a number as threshold, 10 with ``"otsu"``, as the skull separates the scalp from the brain in MR.
        piece_mm: thin pieces that touch the body are given back when no longer than this in the axial plane.
        sealing_mm: cavities that open outwards through a gap narrower than twice this are filled too.
        min_volume_fraction: components with at least this fraction of the volume of the largest one are kept, so that
            both legs stay; 1 keeps the largest only.

    Returns:
        Boolean array with the shape of ``volume``.

    Raises:
        GeometryError: if the volume is neither 2D nor 3D, or the spacing does not fit it.
        ConfigError: if a length is negative or the fraction is not in (0, 1].
        IntensityError: if nothing above the threshold is thick enough to be a body, or the image is constant.
    """
    if volume.ndim == 2 and len(spacing_mm) == 2:
        volume, spacing_mm, is_plane = volume[..., None], [*spacing_mm, 1.0], True
    else:
        is_plane = False
    if volume.ndim != 3 or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise GeometryError(
            f"A volume of shape {volume.shape} with spacing {tuple(spacing_mm)} mm: need (X, Y, Z) with three positive "
            "spacings, or (X, Y) with two. Give channels one by one."
        )
    if opening_mm is None:
        opening_mm = 1.0 if threshold == "otsu" else 5.0
    if bridging_mm is None:
        bridging_mm = 10.0 if threshold == "otsu" else 0.0
    if min(opening_mm, bridging_mm, piece_mm, sealing_mm) < 0 or not 0 < min_volume_fraction <= 1:
        raise ConfigError(
            f"opening_mm={opening_mm:g}, bridging_mm={bridging_mm:g}, piece_mm={piece_mm:g}, sealing_mm={sealing_mm:g} "
            f"must not be negative and min_volume_fraction={min_volume_fraction:g} must be in (0, 1]."
        )
    axis = volume.shape.index(1) if 1 in volume.shape else axial_axis % 3
    in_plane_mm = [size for k, size in enumerate(spacing_mm) if k != axis]
    planes = np.moveaxis(volume, axis, 0)

    tissue = planes > _threshold(planes, threshold)
    # The opening would take the thin wall before a cavity away, such as the forehead. Only what is closed in 3D is
    # filled before it: a hollow table, and the gap between table and back, are closed in planes but open at the ends.
    core = _opening(_sealed(tissue, sealing_mm, in_plane_mm, fill=_fill_3d), opening_mm, in_plane_mm)
    if bridging_mm > 0:
        core = _closing(core, bridging_mm, in_plane_mm)
    core = _components(core, min_volume_fraction)
    if not core.any():
        raise IntensityError(
            f"No body: {tissue.mean():.1%} of the voxels are above the threshold {threshold!r} and nothing of it is "
            f"thicker than 2 x {opening_mm:g} mm; values reach from {planes.min():g} to {planes.max():g}. Is the image "
            "in HU, the spacing in mm? Lower the threshold or opening_mm."
        )
    body = _give_back(tissue, core, opening_mm=opening_mm, piece_mm=piece_mm, in_plane_mm=in_plane_mm)
    body = _sealed(body, sealing_mm, in_plane_mm, fill=_fill)
    found = np.ascontiguousarray(np.moveaxis(_components(body, min_volume_fraction), 0, axis))
    return found[..., 0] if is_plane else found


class BodyMaskd(MapTransform):
    """Find the body in an image and store it under ``mask_key`` as uint8, on the grid of the image.

    Args:
        keys: images ``(C, X, Y, Z)``; the mask of several keys or channels is their union.
        mask_key: key of the mask ``(1, X, Y, Z)``.
        threshold: as for :func:`body_mask`: -400 for CT in HU, ``"otsu"`` for MR.
        opening_mm: as for :func:`body_mask`.
        bridging_mm: as for :func:`body_mask`.
        piece_mm: as for :func:`body_mask`.
        sealing_mm: as for :func:`body_mask`.
        min_volume_fraction: as for :func:`body_mask`.
        allow_missing_keys: skip keys that a case does not have.

    Spacing and the axial direction come from the affine of the image; without one, 1 mm and the last axis.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        mask_key: str = "mask",
        threshold: float | Literal["otsu"] = -400.0,
        opening_mm: float | None = None,
        bridging_mm: float | None = None,
        piece_mm: float = 30.0,
        sealing_mm: float = 3.0,
        min_volume_fraction: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.arguments: dict[str, Any] = {
            "threshold": threshold,
            "opening_mm": opening_mm,
            "bridging_mm": bridging_mm,
            "piece_mm": piece_mm,
            "sealing_mm": sealing_mm,
            "min_volume_fraction": min_volume_fraction,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask.

        Raises:
            GeometryError: if the images of several keys differ in shape.
        """
        out = dict(data)
        mask: np.ndarray | None = None
        like: torch.Tensor | None = None
        for key in self.key_iterator(out):
            image = torch.as_tensor(out[key])
            spacing_mm, axial_axis = spacing_and_axis(image)
            for channel in image.detach().cpu().numpy():
                found = body_mask(channel, spacing_mm, axial_axis=axial_axis, **self.arguments)
                if mask is not None and mask.shape != found.shape:
                    raise GeometryError(
                        f"Body mask of {list(self.keys)}: {key!r} has shape {found.shape}, another one {mask.shape}. "
                        "Resample them to one grid first, or use one key."
                    )
                mask = found if mask is None else mask | found
            like = image if like is None else like
        if mask is not None:
            tensor = torch.from_numpy(mask[None].astype(np.uint8))
            out[self.mask_key] = MetaTensor(tensor, meta=dict(like.meta)) if isinstance(like, MetaTensor) else tensor
        return out


class MaskBackgroundd(MapTransform):
    """Set what lies outside a mask to one value; inside, every value stays exactly as it was.

    Args:
        keys: images ``(C, *spatial)``.
        mask_key: key of the mask ``(1, *spatial)`` or ``(C, *spatial)``, non-zero inside.
        value: value of the background in the units of the image, -1024 for CT in HU, 0 for MR; one for all keys or one
            per key.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        value: float | Sequence[float] = -1024.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.values = (value,) * len(self.keys) if isinstance(value, int | float) else tuple(value)
        if len(self.values) != len(self.keys):
            raise ConfigError(
                f"MaskBackgroundd: {len(self.values)} values for the keys {list(self.keys)}; give one each."
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the background.

        Raises:
            GeometryError: if mask and image differ in shape.
        """
        out = dict(data)
        inside = torch.as_tensor(out[self.mask_key]).as_subclass(torch.Tensor) != 0
        for key, value in self.key_iterator(out, self.values):
            image = torch.as_tensor(out[key])
            if inside.shape[1:] != image.shape[1:] or inside.shape[0] not in (1, image.shape[0]):
                raise GeometryError(
                    f"MaskBackgroundd: {self.mask_key!r} has shape {tuple(inside.shape)}, {key!r} "
                    f"{tuple(image.shape)}. Both must lie on one grid: mask before resampling, or resample the mask."
                )
            filled = image.clone()
            filled[~inside.to(image.device).expand(image.shape)] = value
            out[key] = filled
        return out


def spacing_and_axis(image: torch.Tensor) -> tuple[list[float], int]:
    """Give spacing in mm and the voxel axis that is closest to feet-to-head."""
    if image.ndim != 4 or not isinstance(image, MetaTensor):
        return [1.0] * (image.ndim - 1), image.ndim - 2
    affine = np.asarray(image.affine, dtype=float)
    orientation = io_orientation(affine)[:, 0]
    axial = np.flatnonzero(orientation == 2)
    return np.linalg.norm(affine[:3, :3], axis=0).tolist(), int(axial[0]) if axial.size else 2


def _threshold(planes: np.ndarray, threshold: float | str) -> float:
    if threshold != "otsu":
        if isinstance(threshold, str):
            raise ConfigError(f"threshold={threshold!r}: give a number (HU for CT) or 'otsu'.")
        return float(threshold)
    values = planes[np.isfinite(planes)].astype(np.float32)
    low, high = np.percentile(values, [0, 99.5]) if values.size else (0.0, 0.0)
    if not low < high:
        raise IntensityError(f"threshold='otsu': the image is constant ({low:g}) or empty. Check the file.")
    # On a linear scale bright fat pulls the threshold above muscle; the square root brings it down to the noise.
    return float(threshold_otsu(np.sqrt(np.clip(values - low, 0, high - low))) ** 2 + low)


def _distance_mm(mask: np.ndarray, in_plane_mm: Sequence[float]) -> np.ndarray:
    """Distance of every voxel to the nearest voxel of the mask in its plane; infinite where the plane has none."""
    distance = np.full(mask.shape, np.inf, dtype=np.float32)
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        distance[k] = ndimage.distance_transform_edt(~mask[k], sampling=in_plane_mm)
    return distance


def _dilate(mask: np.ndarray, radius_mm: float, in_plane_mm: Sequence[float]) -> np.ndarray:
    return _distance_mm(mask, in_plane_mm) <= radius_mm


def _opening(mask: np.ndarray, radius_mm: float, in_plane_mm: Sequence[float]) -> np.ndarray:
    return _dilate(~_dilate(~mask, radius_mm, in_plane_mm), radius_mm, in_plane_mm) & mask


def _closing(mask: np.ndarray, radius_mm: float, in_plane_mm: Sequence[float]) -> np.ndarray:
    # Beyond the field of view is background, or everything close to its sides would be closed.
    rows, columns = (int(radius_mm // size) + 2 for size in in_plane_mm)
    padded = np.pad(mask, ((0, 0), (rows, rows), (columns, columns)))
    closed = ~_dilate(~_dilate(padded, radius_mm, in_plane_mm), radius_mm, in_plane_mm)
    return closed[:, rows:-rows, columns:-columns] | mask


def _components(mask: np.ndarray, min_volume_fraction: float) -> np.ndarray:
    """Keep the components with at least this fraction of the size of the largest one."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= min_volume_fraction * sizes.max())[labels] & mask


def _give_back(
    tissue: np.ndarray, core: np.ndarray, *, opening_mm: float, piece_mm: float, in_plane_mm: Sequence[float]
) -> np.ndarray:
    """Return the core with its rounded corners and with the short pieces of tissue that touch it."""
    distance = _distance_mm(core, in_plane_mm)
    body = core | (tissue & (distance <= _CORNER_LOSS * opening_mm))
    touching_mm = 1.01 * max(in_plane_mm)
    for k in np.flatnonzero(core.any(axis=(1, 2))):
        labels, count = ndimage.label(tissue[k] & ~core[k])
        if not count:
            continue
        nearest = ndimage.minimum(distance[k], labels, np.arange(1, count + 1))
        for label, (box, near) in enumerate(zip(ndimage.find_objects(labels), nearest, strict=True), start=1):
            length_mm = max((s.stop - s.start) * size for s, size in zip(box, in_plane_mm, strict=True))
            if near <= touching_mm and length_mm <= piece_mm:
                body[k][box] |= labels[box] == label
    return body


def _sealed(
    mask: np.ndarray, radius_mm: float, in_plane_mm: Sequence[float], *, fill: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Fill cavities, also those that only a narrow gap opens; the outline stays where it is."""
    filled = fill(mask)
    if radius_mm == 0:
        return filled
    closed = _closing(filled, radius_mm, in_plane_mm)
    cavities = fill(closed) & ~closed
    return fill(filled | (_dilate(cavities, radius_mm, in_plane_mm) & (closed | cavities)))


def _fill_3d(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes(mask) if len(mask) > 1 else mask


def _fill(mask: np.ndarray) -> np.ndarray:
    """Fill cavities: closed ones in 3D and in every plane, and those that the field of view cuts open in a plane."""
    filled = _fill_3d(mask).copy()
    for plane in filled:
        if not plane.any():
            continue
        labels, count = ndimage.label(~plane)
        if not count:
            continue
        sides = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        on_side = np.bincount(sides, minlength=count + 1).astype(float)
        area = np.bincount(labels.ravel(), minlength=count + 1)
        plane |= (area > _CUT_CAVITY * on_side**2)[labels]
    return filled

"""The plane of a case that a preview shows, and how its pixels become colours."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from monai.data import MetaTensor
from monai.transforms import Orientation

_NUM_COLOURS = 20
# Black for id 0, usually background; white for voxels of no class.
LABEL_COLOURS = ListedColormap(
    np.concatenate([np.array([[0.0, 0.0, 0.0, 1.0]]), matplotlib.colormaps["tab20"](np.arange(_NUM_COLOURS))])
).with_extremes(under="white")


def middle_fraction(item: Mapping[str, Any]) -> float:
    """Where along the last axis the middle of the mask is, from 0 to 1; the middle of the target without a mask."""
    if "mask" not in item:
        return 0.5
    mask = _to_ras(item["mask"])[0]
    if mask.ndim < 3:
        return 0.5
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    return float(slices[len(slices) // 2]) / max(mask.shape[2] - 1, 1) if len(slices) else 0.5


def take_plane(image: Any, fraction: float) -> np.ndarray:
    """One plane ``(C, X, Y)`` of a volume ``(C, X, Y, Z)``, in RAS; an image ``(C, X, Y)`` as it is."""
    volume = _to_ras(image)
    return volume if volume.ndim == 3 else volume[..., round(fraction * (volume.shape[3] - 1))]


def shorten(name: str, length: int = 24) -> str:
    """Leave out the middle of a name that is longer: of case ids the ends differ, and the next title begins there."""
    if len(name) <= length:
        return name
    front = (length - 1) // 2
    return f"{name[:front]}…{name[front + 1 - length :]}"


def is_label_map(condition: Any) -> bool:
    """Whether the condition of a network is one-hot (several channels that hold 0 and 1 only)."""
    if condition.shape[0] < 2:
        return False
    plane = torch.as_tensor(condition).as_subclass(torch.Tensor)
    plane = plane[..., plane.shape[-1] // 2] if plane.ndim == 4 else plane
    return bool(((plane == 0) | (plane == 1)).all())


def condition_picture(item: Mapping[str, Any], fraction: float) -> tuple[np.ndarray, dict[str, Any]]:
    """What the network was given: label maps and pictures of three channels in colours, everything else in grey.

    Returns:
        ``(X, Y)`` or ``(X, Y, 3)``, and how matplotlib shall draw it.
    """
    shown = item.get("native_condition", item["condition"])
    plane = take_plane(shown, fraction)
    if not is_label_map(item["condition"]):
        if plane.shape[0] == 3 and shown.ndim == 3:  # the three channels of a volume are neighbours or modalities
            return image_picture(plane, (float(plane.min()), max(float(plane.max()), float(plane.min()) + 1e-6)))
        return plane[0], {"cmap": "gray"}
    # Of edge maps behind the classes nothing is seen: where all are 1, the first channel wins.
    ids = plane.argmax(axis=0) if is_label_map(shown) else np.round(plane[0]).astype(int)
    colours = np.where(ids > 0, (ids - 1) % _NUM_COLOURS + 1, ids)
    if is_label_map(shown):
        colours = np.where(plane.any(axis=0), colours, -1)
    return colours, {"cmap": LABEL_COLOURS, "vmin": 0, "vmax": _NUM_COLOURS}


def image_picture(plane: np.ndarray, window: tuple[float, float]) -> tuple[np.ndarray, dict[str, Any]]:
    """A target or prediction in its window: three channels are colours, else the first one is shown in grey.

    Args:
        plane: ``(C, X, Y)``.
        window: lowest and highest value shown.

    Returns:
        ``(X, Y)`` or ``(X, Y, 3)``, and how matplotlib shall draw it.
    """
    low, high = window
    if plane.shape[0] == 3:
        return np.clip((plane.transpose(1, 2, 0) - low) / (high - low), 0, 1), {}
    return plane[0], {"cmap": "gray", "vmin": low, "vmax": high}


def _to_ras(image: Any) -> np.ndarray:
    if isinstance(image, MetaTensor) and image.ndim == 4:
        image = Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image)
    return np.asarray(torch.as_tensor(image).cpu(), dtype=np.float32)

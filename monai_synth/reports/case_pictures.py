"""One case as pictures: condition | target | prediction | error, for the slices worth looking at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_synth.reports import panels
from monai_synth.reports.quantities import MINUS, number
from monai_synth.reports.views import (
    AXIS_LETTERS,
    COUNTED_FROM,
    EDGES,
    View,
    centre_view,
    crop_box,
    lay_out,
    pixel_mm,
    position_mm,
    worst_view,
)
from monai_synth.reports.volumes import UnreadableImage, Volume, first_path, read_volume

DISPLAY_HU = (-500.0, 1000.0)  # air black, soft tissue grey, most bone not yet white
ERROR_LIMITS = (10, 20, 50, 100, 150, 200, 300, 500, 1000, 2000, 4000, 10000, 20000, 40000)  # the last ones for 16 bits
ERROR_QUANTILE = 0.95
MAX_LABELS = 64
OBLIQUE_DEG = 2.0
ROLES = ("condition", "target", "mask", "prediction")


@dataclass(frozen=True)
class Display:
    """How images are shown: unit and window of target and prediction, contract of the condition, what there is.

    Attributes:
        is_paired: whether there are targets; without, condition and prediction are all there is to show.
        is_masked: whether only the voxels of the mask count.
    """

    unit: str = "HU"
    target_window: tuple[float, float] | None = DISPLAY_HU
    condition_unit: str = "a.u."
    is_condition_in_window: bool = False
    is_paired: bool = True
    is_masked: bool = True


@dataclass
class Slice:
    """Pixels of one view, ready to be drawn: grey ``(rows, columns)`` or colours ``(rows, columns, 3)``."""

    view: View
    caption: str
    pixel_mm: tuple[float, float]
    mask: NDArray[Any]
    images: dict[str, NDArray[Any]]
    error: NDArray[Any] | None


@dataclass
class CasePictures:
    """Slices of one case, grey windows and what has to be said about its files."""

    slices: list[Slice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    target_window: tuple[float, float] = DISPLAY_HU
    condition_window: tuple[float, float] = (0.0, 1.0)
    is_label_map: bool = False
    is_picture: bool = False


@dataclass(frozen=True)
class Panel:
    """A picture with its title, scale and letters at the edges; ``source`` is ``None`` when ``reason`` says why."""

    title: str
    source: str | None
    reason: str
    bar: str
    scale: tuple[str, ...]
    edges: tuple[str, str, str, str] | None


def display_from(
    intensity: Any,
    *,
    window_hu: tuple[float, float] = DISPLAY_HU,
    is_paired: bool = True,
    is_masked: bool = True,
) -> Display:
    """Choose windows from the intensity contract of ``run.json``."""
    contracts = intensity if isinstance(intensity, dict) else {}
    target, condition = contracts.get("target") or {}, contracts.get("condition") or {}
    unit = str(target.get("unit") or "HU")
    window: tuple[float, float] | None = window_hu
    if unit != "HU":
        window = (float(target["low"]), float(target["high"])) if {"low", "high"} <= target.keys() else None
    return Display(
        unit=unit,
        target_window=window,
        condition_unit=str(condition.get("unit") or "a.u."),
        is_condition_in_window=unit == "HU" and condition.get("unit") == "HU",
        is_paired=is_paired,
        is_masked=is_masked,
    )


def collect(row: dict[str, Any], *, run_dir: Path, display: Display, has_worst_slice: bool) -> CasePictures:
    """Read the images of one case and cut its slices.

    Args:
        row: one row of ``cases.csv``.
        run_dir: run's folder; a prediction that is not at its recorded path is looked for here.
        display: windows.
        has_worst_slice: add the slice with the largest mean error.
    """
    pictures = CasePictures()
    left_out = {*(() if display.is_paired else ("target",)), *(() if display.is_masked else ("mask",))}
    roles = [role for role in ROLES if role not in left_out]
    volumes = {role: volume for role in roles if (volume := _load(row, role, run_dir, pictures)) is not None}
    reference = volumes.get("target") or volumes.get("prediction") or volumes.get("condition")
    if reference is None:
        return pictures
    for role, volume in list(volumes.items()):
        if volume.array.shape != reference.array.shape:
            other = "target" if "target" in volumes else "prediction" if "prediction" in volumes else "condition"
            shapes = f"{_shape(volume)} voxels, the {other} {_shape(reference)}"
            pictures.reasons[role] = f"is on another grid ({shapes})"
            del volumes[role]
        elif (shift_mm := _shift_mm(volume, reference)) > 0.5 * min(reference.spacing_mm):
            pictures.notes.append(f"The affine of the {role} lies up to {shift_mm:.1f} mm away from the target's.")
    if "mask" in volumes:
        mask = volumes["mask"].array > 0
    else:
        mask = np.ones(reference.array.shape, dtype=bool)
        if "mask" in pictures.reasons and row.get("mask"):
            pictures.notes.append(f"Mask {pictures.reasons['mask']}: the whole image is shown as if it counted.")
    error = None
    pictures.is_picture = reference.is_picture
    if "prediction" in volumes and "target" in volumes:
        difference = _difference(volumes["prediction"], volumes["target"], pictures)
        error = None if difference is None else difference.mean(axis=-1)
        if difference is not None:
            _check_number(np.abs(difference[mask]), row, display, pictures)
    _set_windows(pictures, volumes, mask, display)
    if reference.tilt_deg > OBLIQUE_DEG:
        pictures.notes.append(
            f"Oblique grid: slices follow the voxel axes, tilted by up to {reference.tilt_deg:.0f}\N{DEGREE SIGN} "
            "against the patient's axes."
        )
    views = [centre_view(mask)]
    if has_worst_slice and error is not None and (worst := worst_view(error, mask)) is not None:
        if worst.index == views[0].index:
            views = [View(worst.axis, worst.index, f"{views[0].reason}, also the {worst.reason}")]
        else:
            views.append(worst)
    box = (slice(None),) * 3 if reference.is_picture else crop_box(mask, reference.spacing_mm)
    pictures.slices = [_cut(view, box, reference, volumes, mask, error, display.unit) for view in views]
    return pictures


def error_limit(cases: Sequence[CasePictures]) -> float:
    """One symmetric limit for all error maps: 95 % of the shown errors inside the masks lie within it."""
    shown = [
        np.abs(cut.error[cut.mask & np.isfinite(cut.error)])
        for case in cases
        for cut in case.slices
        if cut.error is not None
    ]
    values = np.concatenate(shown) if shown else np.empty(0)
    reach = float(np.quantile(values, ERROR_QUANTILE)) if values.size else 0.0
    return float(next((limit for limit in ERROR_LIMITS if limit >= reach), ERROR_LIMITS[-1]))


def draw(cut: Slice, pictures: CasePictures, *, display: Display, limit: float) -> list[Panel]:
    """Draw the four panels of one slice."""
    edges = None if pictures.is_picture else EDGES[cut.view.axis]
    row = []
    for role, window, unit in (
        ("condition", pictures.condition_window, display.condition_unit),
        ("target", pictures.target_window, display.unit),
        ("prediction", pictures.target_window, display.unit),
    ):
        if role == "target" and not display.is_paired:
            continue
        if role not in cut.images:
            row.append(Panel(role.capitalize(), None, pictures.reasons.get(role, "is missing"), "", (), None))
            continue
        # The network may have got more, such as a head that the bundle found, or classes made of numbers of cells.
        title = "Condition as stored" if role == "condition" else role.capitalize()
        if role == "condition" and pictures.is_label_map:
            source = panels.label_panel(cut.images[role], pixel_mm=cut.pixel_mm)
            row.append(Panel(title, source, "", "", ("label map, one colour per id",), edges))
        elif cut.images[role].ndim == 3:
            source = panels.colour_panel(cut.images[role], window=window, pixel_mm=cut.pixel_mm)
            row.append(Panel(title, source, "", "", (f"colours, {' to '.join(_grey_scale(window, unit))}",), edges))
        else:
            source = panels.grey_panel(cut.images[role], window=window, pixel_mm=cut.pixel_mm)
            row.append(Panel(title, source, "", "grey", _grey_scale(window, unit), edges))
    if not display.is_paired:
        return row
    title = f"Prediction {MINUS} target"
    if cut.error is None:
        row.append(Panel(title, None, "needs both target and prediction", "", (), None))
    else:
        source = panels.error_panel(cut.error, cut.mask, limit=limit, pixel_mm=cut.pixel_mm)
        scale = (f"{MINUS}{limit:.0f}", "0", f"+{limit:.0f} {display.unit}")
        row.append(Panel(title, source, "", "error", scale, edges))
    return row


def _load(row: dict[str, Any], role: str, run_dir: Path, pictures: CasePictures) -> Volume | None:
    cell = str(row.get(role) or "")
    name, num_files = first_path(cell)
    if not name:
        pictures.reasons[role] = "has no file in cases.csv"
        return None
    file = Path(name)
    moved = run_dir / "evaluation" / "predictions" / file.name
    if role == "prediction" and not file.exists() and moved.exists():
        file = moved
    try:
        volume = read_volume(file, is_label_map=role in ("condition", "mask"))
    except UnreadableImage as reason:
        pictures.reasons[role] = str(reason)
        return None
    if num_files > 1 or (volume.num_channels > 1 and volume.colours is None):
        pictures.notes.append(f"The {role} has {max(num_files, volume.num_channels)} channels; the first is shown.")
    return volume


def _shape(volume: Volume) -> str:
    sizes = volume.array.shape[:2] if volume.is_picture else volume.array.shape
    return " \N{MULTIPLICATION SIGN} ".join(str(size) for size in sizes)


def _difference(prediction: Volume, target: Volume, pictures: CasePictures) -> NDArray[Any] | None:
    """Prediction - target, ``(x, y, z, channels)``; nothing where one is in colours and the other grey."""
    if (prediction.colours is None) != (target.colours is None):
        pictures.notes.append("One of prediction and target has colours and the other has not: no error is shown.")
        return None
    if prediction.colours is None or target.colours is None:
        return (prediction.array - target.array)[..., None]
    return prediction.colours - target.colours


def _shift_mm(volume: Volume, reference: Volume) -> float:
    """Largest distance between the same corner of two grids of one shape."""
    last = np.array(reference.array.shape) - 1
    corners = np.array(np.meshgrid(*[(0, size) for size in last])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    offset = (volume.affine - reference.affine) @ homogeneous
    return float(np.linalg.norm(offset[:3], axis=0).max())


def _check_number(errors: NDArray[Any], row: dict[str, Any], display: Display, pictures: CasePictures) -> None:
    """Say when the files on disk do not give the number in the table."""
    broken = int((~np.isfinite(errors).all(axis=-1)).sum())
    if broken:
        pictures.notes.append(f"{broken} voxels inside the mask are not finite (black in the error map).")
    recorded = row.get("mae_hu", row.get("mae", float("nan")))
    if errors.size == 0 or broken or not np.isfinite(recorded):
        return
    found = float(errors.mean(dtype=np.float64))
    if abs(found - recorded) > max(1.0, 0.01 * abs(recorded)):
        kind = "a masked" if display.is_masked else "an"
        pictures.notes.append(
            f"The files shown give {kind} MAE of {number(found, 1)} {display.unit}, cases.csv says "
            f"{number(recorded, 1)} {display.unit}: one of them is from another evaluation."
        )


def _set_windows(pictures: CasePictures, volumes: dict[str, Volume], mask: NDArray[Any], display: Display) -> None:
    target = volumes.get("target") or volumes.get("prediction")
    if display.target_window is not None:
        pictures.target_window = display.target_window
    elif target is not None:
        pictures.target_window = _robust_window(target.array, mask)
    condition = volumes.get("condition")
    if condition is None:
        return
    if display.is_condition_in_window:
        pictures.condition_window = pictures.target_window
        return
    if condition.colours is None:
        pictures.is_label_map = condition.is_integer and np.unique(condition.array).size <= MAX_LABELS
        pictures.condition_window = _robust_window(condition.array, mask)
    else:
        pictures.condition_window = (0.0, 255.0)


def _robust_window(image: NDArray[Any], mask: NDArray[Any]) -> tuple[float, float]:
    values = image[mask & np.isfinite(image)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (1, 99))
    return float(low), float(max(high, low + 1e-6))


def _cut(
    view: View,
    box: tuple[slice, slice, slice],
    reference: Volume,
    volumes: dict[str, Volume],
    mask: NDArray[Any],
    error: NDArray[Any] | None,
    unit: str,
) -> Slice:
    flat_mask = lay_out(mask, view, box)
    flat_error = None if error is None else lay_out(error, view, box)
    last = reference.array.shape[view.axis] - 1
    which = f"slice {view.index} (0 to {last}, counted from {COUNTED_FROM[view.axis]})"
    caption = (
        f"{view.plane.capitalize()} {which}, {AXIS_LETTERS[view.axis]} = {number(position_mm(reference, view), 1)} mm "
        f"(RAS); {view.reason}."
    )
    if reference.is_picture:
        caption = f"The whole picture, {_shape(reference)} pixels."
    elif flat_error is not None and flat_mask.any():
        mean = float(np.abs(flat_error[flat_mask]).mean(dtype=np.float64))
        caption += f" MAE inside the mask of this slice: {number(mean, 1)} {unit}."
    images = {
        role: lay_out(volume.array if volume.colours is None else volume.colours, view, box)
        for role, volume in volumes.items()
        if role != "mask"
    }
    return Slice(view, caption, pixel_mm(reference, view), flat_mask, images, flat_error)


def _grey_scale(window: tuple[float, float], unit: str) -> tuple[str, str]:
    span = window[1] - window[0]
    decimals = 0 if span >= 20 else 2
    return number(window[0], decimals), f"{number(window[1], decimals)} {unit}"

"""Image scores of the SynthRAD challenges, in HU on the native grid.

Shapes: numpy arrays or tensors ``(Z, Y, X)`` of one case. Written from the definitions of the challenges
(https://synthrad2023.grand-challenge.org and https://synthrad2025.grand-challenge.org) and equal to their numbers:
2023 to 5e-7 in SSIM (the official code works in float32), 2025 to 1e-8 in MS-SSIM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, uniform_filter

from monai_synth.errors import ConfigError, GeometryError, IntensityError

__all__ = ["PRESETS", "SynthradPreset", "explain_missing", "score_case"]

Volume = NDArray[Any] | torch.Tensor
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Array = TypeVar("Array", Floats, Bools)
Formula = Callable[[Floats, Floats, Floats, Floats, Floats], Floats]

WINDOW = 7
BORDER = WINDOW // 2
SLAB = 32  # planes filtered at once, which bounds the memory
SMALLEST_PADDED = 97  # (WINDOW - 1) * 2**4 + 1: the least size that leaves one window at the fifth scale
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216


@dataclass(frozen=True)
class SynthradPreset:
    """What differs between the years of the challenge.

    Args:
        high_hu: upper end of the range to which both images are clipped for PSNR and SSIM.
        structural: ``"ssim"`` (one scale) or ``"ms_ssim"`` (five scales); also the key of the score.
        low_hu: lower end of the range, and the value outside the mask.
    """

    high_hu: float
    structural: Literal["ssim", "ms_ssim"]
    low_hu: float = -1024.0

    @property
    def range_hu(self) -> float:
        """Width of the range, the peak of PSNR and the dynamic range of SSIM."""
        return self.high_hu - self.low_hu


# The container behind the 2025 leaderboard clips at 3071 HU; the repository published with the paper at 3000 HU, which
# costs 0.12 to 0.15 dB.
PRESETS: dict[str, SynthradPreset] = {
    "synthrad2023": SynthradPreset(high_hu=3000.0, structural="ssim"),
    "synthrad2025": SynthradPreset(high_hu=3071.0, structural="ms_ssim"),
    "synthrad2025-paper": SynthradPreset(high_hu=3000.0, structural="ms_ssim"),
}


def score_case(
    prediction: Volume, target: Volume, mask: Volume | None, preset: str = "synthrad2023"
) -> dict[str, float]:
    """Score one synthetic CT against its CT inside a mask.

    MAE is computed on the values as they are, PSNR and (MS-)SSIM after clipping to the range of the preset. Voxels
    outside the mask never count, whatever they hold. A score that is not defined for a case is NaN;
    :func:`explain_missing` tells why. PSNR of identical images is infinite.

    A volume with a singleton axis (a slice stored as a volume) has no 3D window: its ``ssim`` is NaN and ``ssim_2d``
    holds the same computation with a 7 x 7 window in the plane, which is not the score of the challenge.

    Args:
        prediction: ``(Z, Y, X)`` in HU.
        target: ``(Z, Y, X)`` in HU.
        mask: ``(Z, Y, X)``, positive where voxels count; ``None`` counts all.
        preset: a key of :data:`PRESETS`.

    Returns:
        ``mae_hu``, ``psnr_db`` and ``ssim`` (``synthrad2023``; with ``ssim_2d`` for slices) or ``ms_ssim`` (2025).

    Raises:
        ConfigError: if the preset is unknown.
        GeometryError: if an array is not 3D or the shapes differ.
        IntensityError: if prediction or target is not finite inside the mask.
    """
    settings = _settings(preset)
    x, y = _float64(prediction), _float64(target)
    inside = np.ones(y.shape, dtype=bool) if mask is None else _float64(mask) > 0
    for name, array in (("prediction", x), ("mask", inside)):
        if array.shape != y.shape:
            raise GeometryError(
                f"The {name} has shape {array.shape}, the target {y.shape}: all must lie on the grid of the target. "
                "Resample to it, or transpose to (Z, Y, X)."
            )
    _require_volume(y.shape)
    x_inside, y_inside = x[inside], y[inside]
    _require_finite("prediction", x_inside)
    _require_finite("target", y_inside)
    structural = _structural(x, y, inside, settings)
    if not inside.any():
        return {"mae_hu": np.nan, "psnr_db": np.nan} | structural
    mae = float(np.abs(x_inside - y_inside).mean())
    clipped = np.clip(x_inside, settings.low_hu, settings.high_hu) - np.clip(
        y_inside, settings.low_hu, settings.high_hu
    )
    mse = float(np.square(clipped).mean())
    psnr = 10 * float(np.log10(settings.range_hu**2 / mse)) if mse > 0 else np.inf
    return {"mae_hu": mae, "psnr_db": psnr} | structural


def explain_missing(mask: Volume, preset: str = "synthrad2023") -> dict[str, str]:
    """Tell which scores of :func:`score_case` are NaN for a mask, and why.

    Args:
        mask: ``(Z, Y, X)``, positive where voxels count.
        preset: a key of :data:`PRESETS`.

    Returns:
        Reason by key, empty where all scores are defined.

    Raises:
        ConfigError: if the preset is unknown.
        GeometryError: if the mask is not 3D.
    """
    settings = _settings(preset)
    inside = _float64(mask) > 0
    _require_volume(inside.shape)
    scores = ["mae_hu", "psnr_db", settings.structural]
    is_slice = settings.structural == "ssim" and 1 in inside.shape
    if is_slice:
        scores.append("ssim_2d")
    if not inside.any():
        return dict.fromkeys(scores, "the mask is empty")
    if settings.structural == "ms_ssim":
        coarsest = _pad(inside)[(slice(None, None, 2 ** (len(LEVEL_WEIGHTS) - 1)),) * 3]
        if not _window_centres(coarsest).any():
            return {"ms_ssim": f"at the coarsest of the 5 scales no voxel of the mask is {BORDER} from every border"}
        return {}
    if not is_slice:
        reason = _no_window(inside)
        return {"ssim": reason} if reason else {}
    missing = {"ssim": f"shape {inside.shape} has a singleton axis, a 3D window does not fit; see ssim_2d"}
    reason = _no_window(inside.squeeze(axis=inside.shape.index(1)))
    return missing | ({"ssim_2d": reason} if reason else {})


def _settings(preset: str) -> SynthradPreset:
    if preset not in PRESETS:
        raise ConfigError(f"Scoring preset {preset!r} is unknown; choose one of {sorted(PRESETS)}.")
    return PRESETS[preset]


def _structural(x: Floats, y: Floats, inside: Bools, settings: SynthradPreset) -> dict[str, float]:
    """SSIM or MS-SSIM of the images clipped, at their lowest value outside the mask and shifted to start at 0."""
    x, y = (
        np.where(inside, np.clip(image, settings.low_hu, settings.high_hu) - settings.low_hu, 0.0) for image in (x, y)
    )
    if settings.structural == "ms_ssim":
        return {"ms_ssim": _ms_ssim(x, y, inside, data_range=settings.range_hu)}
    formula = _ssim_formula(settings.range_hu)
    if 1 not in inside.shape:
        return {"ssim": _mean_over_windows(x, y, inside, formula)}
    axis = inside.shape.index(1)
    plane = _mean_over_windows(x.squeeze(axis), y.squeeze(axis), inside.squeeze(axis), formula)
    return {"ssim": np.nan, "ssim_2d": plane}


def _ssim_formula(data_range: float) -> Formula:
    """Structural similarity, Wang et al. 2004, doi:10.1109/TIP.2003.819861, with K1 = 0.01 and K2 = 0.03."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def formula(ux: Floats, uy: Floats, vx: Floats, vy: Floats, vxy: Floats) -> Floats:
        return ((2 * ux * uy + c1) * (2 * vxy + c2)) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))

    return formula


def _ms_ssim_formula(data_range: float, weight: float) -> Formula:
    """One scale of MS-SSIM: luminance, contrast and structure, each without its negative part, to the same power."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    c3 = c2 / 2

    def formula(ux: Floats, uy: Floats, vx: Floats, vy: Floats, vxy: Floats) -> Floats:
        sx, sy = np.sqrt(np.maximum(vx, 0)), np.sqrt(np.maximum(vy, 0))
        luminance = (2 * ux * uy + c1) / (ux**2 + uy**2 + c1)
        contrast = (2 * sx * sy + c2) / (vx + vy + c2)
        structure = (vxy + c3) / (sx * sy + c3)
        return (np.maximum(luminance, 0) * np.maximum(contrast, 0) * np.maximum(structure, 0)) ** weight

    return formula


def _ms_ssim(x: Floats, y: Floats, inside: Bools, *, data_range: float) -> float:
    """Product over five scales.

    The SynthRAD2025 container weights luminance at every scale, not only at the last as Wang et al. 2003 do. It also
    pads the mask with the images, so that a mask at a border grows into the padding. Both are kept, because the only
    purpose of this score is equality with the challenge.
    """
    x, y, inside = _pad(x), _pad(y), _pad(inside)
    product = 1.0
    for level, weight in enumerate(LEVEL_WEIGHTS):
        if level:
            x, y, inside = _halve(x), _halve(y), inside[::2, ::2, ::2]
        score = _mean_over_windows(x, y, inside, _ms_ssim_formula(data_range, weight))
        product *= float(np.clip(score, 0.0, 1.0))
    return product


def _pad(array: Array) -> Array:
    """Repeat the edges until every axis has at least 97 voxels, the smaller half of the padding before."""
    missing = [max(SMALLEST_PADDED - size, 0) for size in array.shape]
    return np.pad(array, [(total // 2, total - total // 2) for total in missing], mode="edge")


def _halve(array: Floats) -> Floats:
    """Mean of each even voxel and the one before it along every axis; the one before the first counts as 0."""
    for axis in range(array.ndim):
        values = np.moveaxis(array, axis, 0)
        halved = values[::2] / 2
        halved[1:] += values[1::2][: len(halved) - 1] / 2
        array = np.moveaxis(halved, 0, axis)
    return array


def _window_centres(inside: Bools) -> Bools:
    """Voxels of the mask whose window lies within the image."""
    centres = np.zeros_like(inside)
    core = (slice(BORDER, -BORDER),) * inside.ndim
    if min(inside.shape) >= WINDOW:
        centres[core] = inside[core]
    return centres


def _no_window(inside: Bools) -> str:
    """Reason why no window lies around a voxel of the mask; empty if one does."""
    if min(inside.shape) < WINDOW:
        return f"shape {inside.shape} has an axis of less than {WINDOW} voxels, the size of the window"
    if not _window_centres(inside).any():
        return f"the mask lies within {BORDER} voxels of the border, where no window of {WINDOW} voxels fits"
    return ""


def _mean_over_windows(x: Floats, y: Floats, inside: Bools, formula: Formula) -> float:
    """Mean of a formula of the local moments over the windows around the voxels of the mask; NaN if there is none."""
    centres = _window_centres(inside)
    if not centres.any():
        return float("nan")
    # Only the box of the mask is filtered, and slab by slab: the windows see the same voxels as in the whole volume.
    box = find_objects(centres.astype(np.uint8))[0]
    total = 0.0
    for start in range(box[0].start, box[0].stop, SLAB):
        slab = (slice(start, min(start + SLAB, box[0].stop)), *box[1:])
        selected = centres[slab]
        wide = tuple(slice(axis.start - BORDER, axis.stop + BORDER) for axis in slab)
        total += float(formula(*_moments(x[wide], y[wide], selected)).sum())
    return total / int(centres.sum())


def _moments(x: Floats, y: Floats, selected: Bools) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Means, sample variances and sample covariance of uniform windows around selected voxels.

    Args:
        x: array with 3 voxels more than ``selected`` on every side.
        y: like ``x``.
        selected: voxels to return, flat.
    """
    core = (slice(BORDER, -BORDER),) * x.ndim
    num_voxels = WINDOW**x.ndim
    unbiased = num_voxels / (num_voxels - 1)

    def local_mean(values: Floats) -> Floats:
        filtered: Floats = uniform_filter(values, size=WINDOW)[core][selected]
        return filtered

    ux, uy = local_mean(x), local_mean(y)
    vx, vy = unbiased * (local_mean(x * x) - ux * ux), unbiased * (local_mean(y * y) - uy * uy)
    return ux, uy, vx, vy, unbiased * (local_mean(x * y) - ux * uy)


def _float64(array: Volume) -> Floats:
    if isinstance(array, torch.Tensor):
        array = array.detach().to("cpu", torch.float64).numpy()
    return np.asarray(array, dtype=np.float64)


def _require_volume(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise GeometryError(
            f"Shape {shape} is not (Z, Y, X). Score one case and one channel at a time; give a slice as (1, Y, X)."
        )


def _require_finite(name: str, values: Floats) -> None:
    if count := int((~np.isfinite(values)).sum()):
        raise IntensityError(
            f"The {name} has {count} NaN or infinite values among the {values.size} voxels of the mask; scores need "
            "finite HU. Check that the training did not diverge and that the file is not damaged."
        )

"""Voxel-wise scores of a batch inside a mask, one value per case, in physical units.

Shapes: ``(B, C, *spatial)`` with an optional mask ``(B, 1, *spatial)``; values ``(B,)``, NaN where the mask is empty.
Voxels outside the mask never count, not even when they are NaN. Sums run in float64 where the device has it.
"""

from torch import Tensor, float32, float64, where

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["masked_mae", "masked_me", "masked_psnr", "masked_rmse"]


def masked_mae(prediction: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error inside a mask, one value per case.

    Args:
        prediction: ``(B, C, *spatial)`` in physical units (HU for CT).
        target: same shape and units as ``prediction``.
        mask: ``(B, 1, *spatial)``, positive where voxels count; ``None`` counts all.

    Returns:
        ``(B,)`` in the units of the input; NaN where the mask is empty.

    Raises:
        GeometryError: if the shapes do not belong together.
    """
    difference, count = _difference(prediction, target, mask)
    return difference.abs().sum(dim=1) / count


def masked_me(prediction: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean signed error ``prediction - target`` inside a mask: positive where the prediction is too bright.

    Arguments, result and errors as for :func:`masked_mae`.
    """
    difference, count = _difference(prediction, target, mask)
    return difference.sum(dim=1) / count


def masked_rmse(prediction: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Root of the mean squared error inside a mask.

    Arguments, result and errors as for :func:`masked_mae`.
    """
    difference, count = _difference(prediction, target, mask)
    return (difference.square().sum(dim=1) / count).sqrt()


def masked_psnr(prediction: Tensor, target: Tensor, *, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio inside a mask in dB, ``20 log10(data_range / RMSE)``; nothing is clipped.

    Args:
        prediction: ``(B, C, *spatial)`` in physical units.
        target: same shape and units as ``prediction``.
        data_range: width of the range of the images, fixed for a whole cohort. The range of each target would make
            cases incomparable.
        mask: ``(B, 1, *spatial)``, positive where voxels count; ``None`` counts all.

    Returns:
        ``(B,)`` in dB; infinite where the images are identical, NaN where the mask is empty.

    Raises:
        ConfigError: if ``data_range`` is not positive.
        GeometryError: if the shapes do not belong together.
    """
    if not data_range > 0:
        raise ConfigError(f"data_range is {data_range}: it must be positive, for example 4024 for CT in [-1024, 3000].")
    return 20 * (data_range / masked_rmse(prediction, target, mask=mask)).log10()


def _difference(prediction: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Difference ``(B, voxels)``, 0 outside the mask, and the number ``(B,)`` of voxels times channels that count."""
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise GeometryError(
            f"The prediction has shape {tuple(prediction.shape)}, the target {tuple(target.shape)}: both must be the "
            "same (B, C, *spatial). Resample the prediction to the grid of the target and add missing axes."
        )
    dtype = float32 if prediction.device.type == "mps" else float64  # MPS has no float64
    # as_subclass: a MetaTensor would carry the metadata of an image into the scores.
    difference = prediction.as_subclass(Tensor).to(dtype) - target.as_subclass(Tensor).to(dtype)
    if mask is None:
        flat = difference.flatten(1)
        return flat, flat.new_full((flat.shape[0],), flat.shape[1])
    expected = (target.shape[0], 1, *target.shape[2:])
    if tuple(mask.shape) != expected:
        raise GeometryError(
            f"The mask has shape {tuple(mask.shape)}: it must be {expected}, one channel on the grid of the target."
        )
    inside = (mask.as_subclass(Tensor) > 0).expand(difference.shape)
    return where(inside, difference, 0.0).flatten(1), inside.flatten(1).sum(dim=1).to(dtype)

"""Scores of synthetic images that are not CT, per case: photographs, micrographs, MR, colour or grey, 2D or 3D.

Items are dictionaries of one case, see :mod:`monai_synth.metrics.case_table`: ``pred`` and ``target`` of shape
``(C, X, Y)`` or ``(C, X, Y, Z)`` in one unit on the native grid, and a ``mask`` of one channel where there is one.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.metrics.case_table import CaseTable, Method, float_array, inside_of
from monai_synth.metrics.image import masked_mae, masked_psnr, masked_rmse

__all__ = ["ImageScores", "score_image"]

# Wang et al. 2004, doi:10.1109/TIP.2003.819861: a Gaussian of sigma 1.5 cut at 5 pixels, population covariance.
SIGMA = 1.5
WINDOW = 11
BORDER = WINDOW // 2
METRICS = ("mae", "rmse", "psnr_db", "ssim", "pearson")


class ImageScores(CaseTable):
    """Error and similarity of every case in the unit of the images, averaged over patients.

    The mean of a score is taken over the cases of each patient first, then over patients. NaN (a score that is not
    defined for a case) is left out. These scores compare pixel by pixel: they suit aligned pairs, and a network that
    draws one of many plausible images for a condition is judged by
    :class:`monai_synth.metrics.TextureDistance` beside them.

    Args:
        unit: unit of the images, for tables and reports.
        data_range: width of the range of the images, the peak of PSNR and the dynamic range of SSIM: 255 for 8-bit
            images. One number for a whole cohort, because the range of each target would make cases incomparable.
        key_metric: the score that ``engine.state.metrics`` gets under the name given in ``attach``: ``mae``, ``rmse``,
            ``psnr_db``, ``ssim`` or ``pearson``.
        pred_key: key of the prediction.
        target_key: key of the target.
        mask_key: key of the mask ``(1, *spatial)``; ``None`` scores all pixels.
        extra_methods: name to a function of the item that returns a prediction in the shape of the target, scored by
            the same code, in ``.table`` only. Baselines of :mod:`monai_synth.inferers.image_baselines` fit.

    Raises:
        ConfigError: if the data range or the key metric is not valid, or a method is called ``"model"``.
    """

    def __init__(
        self,
        unit: str = "grey levels",
        data_range: float = 255.0,
        key_metric: str = "mae",
        pred_key: str = "pred",
        target_key: str = "target",
        mask_key: str | None = None,
        extra_methods: Mapping[str, Method] | None = None,
    ) -> None:
        """Check the names before a long evaluation starts."""
        _require_range(data_range)
        if key_metric not in METRICS:
            raise ConfigError(f"key_metric {key_metric!r} is not computed for images; choose one of {list(METRICS)}.")
        self.unit, self.data_range = unit, float(data_range)
        super().__init__(key_metric, pred_key, target_key, mask_key, extra_methods)

    @property
    def units(self) -> dict[str, str]:
        """Unit by metric, ``""`` where a metric has none."""
        return {"mae": self.unit, "rmse": self.unit, "psnr_db": "dB", "ssim": "", "pearson": ""}

    def describe(self) -> dict[str, Any]:
        """Unit, range, mask and the settings of SSIM, in JSON types."""
        return {
            "unit": self.unit,
            "data_range": self.data_range,
            "scored_inside": self.mask_key,
            "ssim": {"window": WINDOW, "weights": "gaussian", "sigma": SIGMA, "data_range": self.data_range},
        }

    def _score(self, prediction: Any, target: Any, mask: Any) -> dict[str, float]:
        y = float_array(target)
        x = float_array(prediction)
        if y.shape[:1] == (1,) and x.shape == y.shape[1:]:  # a method may leave out the only channel
            x = x[None]
        return score_image(x, y, mask=None if mask is None else float_array(mask), data_range=self.data_range)


def score_image(
    prediction: NDArray[Any], target: NDArray[Any], *, mask: NDArray[Any] | None = None, data_range: float
) -> dict[str, float]:
    """Score one image against its target.

    Pixels outside the mask never count, whatever they hold; for SSIM both images are 0 there. Nothing is clipped.
    Axes of one voxel do not count: a slice stored as a volume is an image.

    Args:
        prediction: ``(C, *spatial)`` with two or three spatial axes.
        target: same shape and unit as ``prediction``.
        mask: ``(1, *spatial)``, whole numbers, positive where pixels count; ``None`` counts all.
        data_range: width of the range of the images.

    Returns:
        ``mae``, ``rmse`` (unit of the images) and ``psnr_db`` over all pixels and channels, PSNR infinite for
        identical images; ``ssim`` (Gaussian window of 11 pixels, sigma 1.5, Wang et al. 2004,
        doi:10.1109/TIP.2003.819861) and ``pearson`` (correlation of the intensities) as means over the channels.
        ``ssim`` is NaN where no window fits around a pixel of the mask, ``pearson`` where an image is constant.

    Raises:
        ConfigError: if ``data_range`` is not positive.
        GeometryError: if the shapes do not belong together.
        IntensityError: if an image is not finite inside the mask.
        LabelError: if the mask is empty or was interpolated.
    """
    _require_range(data_range)
    if prediction.shape != target.shape or target.ndim not in (3, 4):
        raise GeometryError(
            f"The prediction has shape {prediction.shape}, the target {target.shape}: both must be the same "
            "(C, X, Y) or (C, X, Y, Z). Resample the prediction to the grid of the target; for another number of "
            "channels, load both as colours or both as grey levels."
        )
    if mask is None:
        inside = np.ones(target.shape[1:], dtype=bool)
    elif mask.shape != (1, *target.shape[1:]):
        raise GeometryError(
            f"The mask has shape {mask.shape}, the target {target.shape}: a mask has one channel, on the grid of the "
            "target."
        )
    else:
        inside = inside_of(mask[0])
    x, y = (np.where(inside, image, 0).astype(np.float64) for image in (prediction, target))
    for name, image in (("prediction", x), ("target", y)):
        if count := int((~np.isfinite(image)).sum()):
            raise IntensityError(
                f"The {name} has {count} NaN or infinite values among the {int(inside.sum())} pixels x "
                f"{len(image)} channels that count; scores need finite intensities. Check that the training did not "
                "diverge and that the file is not damaged."
            )
    batch = [torch.from_numpy(image)[None] for image in (x, y)]
    within = torch.from_numpy(inside)[None, None]
    return {
        "mae": masked_mae(*batch, mask=within).item(),
        "rmse": masked_rmse(*batch, mask=within).item(),
        "psnr_db": masked_psnr(*batch, mask=within, data_range=data_range).item(),
        "ssim": _ssim(x, y, inside, data_range),
        "pearson": float(np.mean([_correlation(a[inside], b[inside]) for a, b in zip(x, y, strict=True)])),
    }


def _ssim(x: NDArray[np.float64], y: NDArray[np.float64], inside: NDArray[np.bool_], data_range: float) -> float:
    """Mean of the map over the pixels of the mask whose window lies within the image, mean over channels."""
    size = tuple(length for length in inside.shape if length > 1)
    inside = inside.reshape(size)
    core = tuple(slice(BORDER, -BORDER) for _ in size)
    if not size or min(size) < WINDOW or not inside[core].any():
        return float("nan")
    means = []
    for a, b in zip(x, y, strict=True):
        _, values = structural_similarity(
            a.reshape(size),
            b.reshape(size),
            data_range=data_range,
            gaussian_weights=True,
            sigma=SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        means.append(values[core][inside[core]].mean())
    return float(np.mean(means))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _require_range(data_range: float) -> None:
    if not (isfinite(data_range) and data_range > 0):
        raise ConfigError(
            f"data_range is {data_range}: it must be positive and finite, the width of the range of the images; 255 "
            "for 8-bit images, high - low of an intensity window."
        )

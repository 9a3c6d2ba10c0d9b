"""Scores of synthetic CT per case, by the rules of SynthRAD and by tissue, while an engine evaluates volumes.

Items are dictionaries of one case, see :mod:`monai_synth.metrics.case_table`: ``pred``, ``target`` and ``mask`` of
shape ``(1, X, Y, Z)`` in HU on the native grid. Images that are not CT: :class:`monai_synth.metrics.ImageScores`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.metrics.case_table import MODEL, CaseTable, Method, float_array, inside_of
from monai_synth.metrics.synthrad import PRESETS, score_case
from monai_synth.metrics.tissue import BINS_HU, BinsHU, check_bins, tissue_mae

__all__ = ["MODEL", "CaseScores"]


class CaseScores(CaseTable):
    """SynthRAD scores, signed error and error by tissue of every case, averaged over patients.

    The mean of a score is taken over the cases of each patient first, then over patients, because the cases of one
    patient are not independent. NaN (a score that is not defined for a case) is left out.

    Usage:
        ``SupervisedEvaluator(..., key_val_metric={"mae_hu": CaseScores()}, metric_cmp_fn=lower_is_better)``; afterwards
        ``engine.state.metrics`` holds ``mae_hu`` and the means of all other scores, and ``.table`` one row per case.

    Args:
        preset: a key of :data:`monai_synth.metrics.synthrad.PRESETS`.
        key_metric: the score that ``engine.state.metrics`` gets under the name given in ``attach``.
        bins_hu: tissue classes, see :func:`monai_synth.metrics.tissue.tissue_mae`.
        pred_key: key of the prediction.
        target_key: key of the target.
        mask_key: key of the mask; ``None`` scores all voxels, which flatters, because air is easy.
        extra_methods: name to a function of the item that returns a prediction in HU, ``(X, Y, Z)`` or
            ``(1, X, Y, Z)``; scored by the same code, in ``.table`` only. Baselines of
            :mod:`monai_synth.inferers.baselines` fit.

    Raises:
        ConfigError: if the preset, the key metric or a bin is not valid, or a method is called ``"model"``.
    """

    def __init__(
        self,
        preset: str = "synthrad2023",
        key_metric: str = "mae_hu",
        bins_hu: BinsHU | None = None,
        pred_key: str = "pred",
        target_key: str = "target",
        mask_key: str | None = "mask",
        extra_methods: Mapping[str, Method] | None = None,
    ) -> None:
        """Check the names before a long evaluation starts."""
        if preset not in PRESETS:
            raise ConfigError(f"Scoring preset {preset!r} is unknown; choose one of {sorted(PRESETS)}.")
        self.preset = preset
        self.bins_hu = check_bins(BINS_HU if bins_hu is None else bins_hu)
        if key_metric not in self.units:
            raise ConfigError(
                f"key_metric {key_metric!r} is not computed with preset {preset!r}; choose one of {list(self.units)}."
            )
        super().__init__(key_metric, pred_key, target_key, mask_key, extra_methods)

    @property
    def units(self) -> dict[str, str]:
        """Unit by metric, ``""`` where a metric has none; ``ssim_2d`` is computed for slices only."""
        structural = ["ssim", "ssim_2d"] if PRESETS[self.preset].structural == "ssim" else ["ms_ssim"]
        return {
            "mae_hu": "HU",
            "me_hu": "HU",
            "psnr_db": "dB",
            **dict.fromkeys(structural, ""),
            **{f"mae_{name}_hu": "HU" for name in self.bins_hu},
        }

    def describe(self) -> dict[str, Any]:
        """Preset and tissue classes, in JSON types."""
        return {"preset": self.preset, "bins_hu": {name: list(limits) for name, limits in self.bins_hu.items()}}

    def _score(self, prediction: Any, target: Any, mask: Any) -> dict[str, float]:
        x, y = _volume(prediction, "prediction"), _volume(target, "target")
        inside = np.ones(y.shape, dtype=bool) if mask is None else inside_of(_volume(mask, "mask"))
        scores = score_case(x, y, inside, self.preset)
        error = x[inside].astype(np.float64) - y[inside]
        tissue = tissue_mae(x, y, mask=inside, bins_hu=self.bins_hu)
        return {
            "mae_hu": scores.pop("mae_hu"),
            "me_hu": float(error.mean()) if error.size else float("nan"),
            **scores,
            **{name: value for name, value in tissue.items() if name.startswith("mae_")},
        }


def _volume(image: Any, name: str) -> NDArray[Any]:
    """Turn ``(1, X, Y, Z)`` or ``(X, Y, Z)`` into a float32 array ``(Z, Y, X)``."""
    array = float_array(image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise GeometryError(
            f"The {name} has shape {array.shape}: scores need one channel of one volume, (1, X, Y, Z). Decollate the "
            "batch, and evaluate slices as volumes with a singleton axis."
        )
    return array.transpose(2, 1, 0)

"""How each metric is named, rounded and explained; numbers as text.

A number that does not exist (NaN) is written as an en dash, never as 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from monai_synth.statistics import MIN_PATIENTS

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Quantity:
    """Label, unit, decimals, direction and the reason why a value may not exist."""

    label: str
    unit: str
    decimals: int
    better: str
    no_value: str


_NO_VOXELS = "the mask is empty, or image values inside it are not finite"
_SMALL = "the image is smaller than the metric's window along one axis, or the mask lies only along the border"
_KNOWN = {
    "mae_hu": Quantity("MAE", "HU", 1, "lower", _NO_VOXELS),
    "me_hu": Quantity("ME", "HU", 1, "near 0", _NO_VOXELS),
    "psnr_db": Quantity("PSNR", "dB", 2, "higher", _NO_VOXELS),
    "ssim": Quantity("SSIM", "1", 3, "higher", _SMALL),
    "ssim_2d": Quantity("SSIM 2D", "1", 3, "higher", "the mask lies only along the border"),
    "ms_ssim": Quantity("MS-SSIM", "1", 3, "higher", _SMALL),
    # Without a unit of their own: that of the images, from summary.csv.
    "mae": Quantity("MAE", "", 2, "lower", _NO_VOXELS),
    "rmse": Quantity("RMSE", "", 2, "lower", _NO_VOXELS),
    "pearson": Quantity("Pearson correlation", "1", 3, "higher", "an image is constant where it counts"),
    "texture_kid": Quantity("texture KID", "1", 2, "lower", "a distance between sets needs two predictions or more"),
}


def method_label(method: str) -> str:
    """A method's name as a reader sees it: ``body_as_water`` is ``body as water``."""
    return method.replace("_", " ")


def quantity(metric: str, *, unit: str = "") -> Quantity:
    """Describe a metric by its column name, e.g. ``mae_hu`` or ``mae_bone_hu``.

    Args:
        metric: column of ``cases.csv`` or value of ``metric`` in ``summary.csv``.
        unit: unit of a metric whose unit is not known here.
    """
    if metric in _KNOWN:
        what = _KNOWN[metric]
        return what if what.unit else replace(what, unit=unit)
    if metric.startswith(("mae_", "me_")) and metric.endswith("_hu"):
        kind, _, rest = metric.removesuffix("_hu").partition("_")
        region = rest.replace("_", " ")
        reason = f"inside the mask no voxel of the target is {region}"
        return Quantity(f"{kind.upper()} {region}", "HU", 1, "lower" if kind == "mae" else "near 0", reason)
    return Quantity(metric.replace("_", " "), unit, 3, "", "no value was computed")


def name_of(metric: str, evaluation: Mapping[str, Any]) -> str:
    """A metric's name in a sentence: ``masked MAE`` where only the voxels of a mask count.

    Args:
        metric: its column name.
        evaluation: ``evaluation.json``; ``scored_inside`` is the key of the mask, scores in HU always have one.
    """
    is_masked = metric.endswith("_hu") or (metric in ("mae", "rmse") and bool(evaluation.get("scored_inside")))
    return f"masked {quantity(metric).label}" if is_masked else quantity(metric).label


def number(value: float, decimals: int) -> str:
    """Write a number with fixed decimals and a true minus sign; an en dash for NaN."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{MINUS}\N{INFINITY}"
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def with_unit(value: float, metric: str, *, unit: str = "") -> str:
    """Write one value of a metric with its unit: ``61.2 HU``."""
    what = quantity(metric, unit=unit)
    text = number(value, what.decimals)
    return text if what.unit in ("", "1") or text == DASH else f"{text} {what.unit}"


@dataclass(frozen=True)
class Estimate:
    """Mean of one metric over patients with its 95 % interval."""

    method: str
    metric: str
    unit: str
    num_patients: int
    mean: float
    ci_low: float
    ci_high: float

    @property
    def has_interval(self) -> bool:
        """Whether both ends exist; few patients give none."""
        return self.num_patients > 1 and not (math.isnan(self.ci_low) or math.isnan(self.ci_high))

    @property
    def no_interval(self) -> str:
        """Why there is none."""
        few = self.num_patients < MIN_PATIENTS
        return f"no interval from fewer than {MIN_PATIENTS} patients" if few else "no interval recorded"

    @property
    def interval_text(self) -> str:
        """``50.1 to 70.3``, or an en dash."""
        decimals = quantity(self.metric).decimals
        if not self.has_interval:
            return DASH
        return f"{number(self.ci_low, decimals)} to {number(self.ci_high, decimals)}"

    def __str__(self) -> str:
        patients = f"n = {self.num_patients} {'patient' if self.num_patients == 1 else 'patients'}"
        if math.isnan(self.mean):
            return f"no value ({patients}; {quantity(self.metric).no_value})"
        interval = f"95 % CI {self.interval_text}" if self.has_interval else self.no_interval
        return f"{with_unit(self.mean, self.metric, unit=self.unit)} ({interval}; {patients})"


def estimates(summary: pd.DataFrame | None) -> dict[tuple[str, str], Estimate]:
    """Index ``evaluation/summary.csv`` by (method, metric)."""
    if summary is None:
        return {}
    found = {}
    for row in summary.to_dict("records"):
        count = 0 if math.isnan(row["n"]) else int(row["n"])
        found[row["method"], row["metric"]] = Estimate(
            row["method"], row["metric"], row["unit"], count, row["mean"], row["ci_low"], row["ci_high"]
        )
    return found

"""Reversible mapping between physical intensities and the range [-1, 1] of a network.

Shapes: any. Units: HU for CT, arbitrary for MR. Accepts numpy arrays and tensors; results are float32 and a MONAI
``MetaTensor`` keeps its metadata. Nothing else in the package knows the relation of the two ranges. Whatever is fitted
to an image becomes a :class:`Window`, which is all that is needed to map back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, TypeVar

import numpy as np
import torch

from monai_synth.errors import ConfigError, GeometryError, IntensityError

__all__ = ["Intensity", "Percentiles", "Window", "ZScore", "from_dict", "to_dict"]

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Window:
    """Linear map of ``[low, high]`` to ``[-1, 1]``; values outside are clipped.

    ``to_physical(to_network(x)) == clip(x)`` up to the rounding of float32, about ``(high - low) * 6e-8``.

    Args:
        low: physical value that becomes -1.
        high: physical value that becomes 1.
        unit: unit of both, ``"HU"`` or ``"a.u."``.

    Raises:
        IntensityError: if ``low`` is not below ``high`` or one of them is not finite.
    """

    low: float
    high: float
    unit: str = "HU"

    def __post_init__(self) -> None:
        """Turn numpy scalars into floats, so that a window can be written as JSON."""
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise IntensityError(
                f"Window(low={self.low:g}, high={self.high:g}, unit={self.unit!r}): low must be below high and both "
                "must be finite. For CT use for example Window(-1024, 2000)."
            )

    @property
    def center(self) -> float:
        """Physical value that becomes 0."""
        return (self.low + self.high) / 2

    @property
    def half_width(self) -> float:
        """Physical difference that one unit of the network stands for."""
        return (self.high - self.low) / 2

    def to_network(self, x: Array) -> Array:
        """Map physical values to ``[-1, 1]``, clipping first.

        Raises:
            IntensityError: if ``x`` holds NaN or infinity.
        """
        _require_finite(x)
        return _clip((_clip(_floating(x), self.low, self.high) - self.center) / self.half_width, -1.0, 1.0)

    def to_physical(self, y: Array) -> Array:
        """Map network values, clipped to ``[-1, 1]``, to physical values."""
        return _clip(_clip(_floating(y), -1.0, 1.0) * self.half_width + self.center, self.low, self.high)

    def clip(self, x: Array) -> Array:
        """Clip physical values to the window."""
        return _clip(_floating(x), self.low, self.high)

    def fit(self, image: np.ndarray | torch.Tensor, mask: np.ndarray | torch.Tensor | None = None) -> "Window":
        """Return this window: it does not depend on the image."""
        return self


@dataclass(frozen=True)
class Percentiles:
    """A window between two percentiles of an image, inside a mask where there is one.

    Args:
        lower: percentile in ``[0, 100)`` that becomes -1.
        upper: percentile in ``(0, 100]`` that becomes 1.
        unit: unit of the image.

    Raises:
        IntensityError: if not ``0 <= lower < upper <= 100``.
    """

    lower: float = 0.5
    upper: float = 99.5
    unit: str = "a.u."

    def __post_init__(self) -> None:
        """Check the order of the percentiles."""
        if not 0 <= self.lower < self.upper <= 100:
            raise IntensityError(
                f"Percentiles(lower={self.lower:g}, upper={self.upper:g}): 0 <= lower < upper <= 100 must hold, "
                "for example Percentiles(0.5, 99.5)."
            )

    def fit(self, image: np.ndarray | torch.Tensor, mask: np.ndarray | torch.Tensor | None = None) -> Window:
        """Find the window of one image.

        Args:
            image: any shape; several channels share one window.
            mask: broadcastable to ``image``, non-zero where voxels count; ``None`` counts all.

        Raises:
            IntensityError: if the mask is empty, or the image has non-finite values or is constant inside it.
            GeometryError: if the mask does not broadcast to the image.
        """
        low, high = np.percentile(_values(image, mask), [self.lower, self.upper]).tolist()
        return _fitted(low, high, self)


@dataclass(frozen=True)
class ZScore:
    """A window of ``num_std`` standard deviations around the mean: the network sees ``z / num_std``, clipped.

    Args:
        num_std: half width of the window in standard deviations.
        unit: unit of the image.

    Raises:
        IntensityError: if ``num_std`` is not positive.
    """

    num_std: float = 3.0
    unit: str = "a.u."

    def __post_init__(self) -> None:
        """Check the width."""
        if not (isfinite(self.num_std) and self.num_std > 0):
            raise IntensityError(f"ZScore(num_std={self.num_std:g}): must be positive, for example 3.")

    def fit(self, image: np.ndarray | torch.Tensor, mask: np.ndarray | torch.Tensor | None = None) -> Window:
        """Find the window of one image; arguments and errors as for :meth:`Percentiles.fit`."""
        values = _values(image, mask)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return _fitted(mean - self.num_std * std, mean + self.num_std * std, self)


Intensity = Window | Percentiles | ZScore
_KINDS: dict[str, type[Intensity]] = {"window": Window, "percentiles": Percentiles, "zscore": ZScore}


def to_dict(intensity: Intensity) -> dict[str, Any]:
    """Describe an intensity in JSON types: ``{"kind": "window", "low": -1024.0, "high": 2000.0, "unit": "HU"}``."""
    kind = next(kind for kind, cls in _KINDS.items() if type(intensity) is cls)
    return {"kind": kind} | {field.name: getattr(intensity, field.name) for field in fields(intensity)}


def from_dict(description: Mapping[str, Any]) -> Intensity:
    """Undo :func:`to_dict`.

    Raises:
        ConfigError: if the kind is unknown or an argument does not belong to it.
        IntensityError: if the values break the rule of the kind.
    """
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(f"Intensity kind {kind!r} is unknown; choose one of {sorted(_KINDS)}.")
    try:
        return _KINDS[kind](**arguments)
    except TypeError as error:
        names = [field.name for field in fields(_KINDS[kind])]
        raise ConfigError(f"Intensity {kind!r} takes {names}, not {sorted(arguments)}: {error}.") from error


def _floating(x: Array) -> Array:
    """Cast to float32; float64 is cast after clipping only, so that large values do not overflow."""
    if isinstance(x, torch.Tensor):
        return x if x.dtype in (torch.float32, torch.float64) else x.float()
    x = np.asarray(x)
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def _clip(x: Array, low: float, high: float) -> Array:
    if isinstance(x, torch.Tensor):
        return x.clamp(low, high).float()
    return np.clip(x, low, high).astype(np.float32, copy=False)


def _require_finite(x: np.ndarray | torch.Tensor) -> None:
    finite = torch.isfinite(x) if isinstance(x, torch.Tensor) else np.isfinite(x)
    if not bool(finite.all()):
        count, size = int((~finite).sum()), int(np.prod(finite.shape))
        raise IntensityError(
            f"{count} of {size} values are NaN or infinite; intensities must be finite. Repair the image, or fill the "
            "values with the background of the modality (-1024 HU in CT, 0 in MR)."
        )


def _values(image: np.ndarray | torch.Tensor, mask: np.ndarray | torch.Tensor | None) -> np.ndarray:
    """Give the voxels that count as one flat array."""
    array = _numpy(image)
    if mask is not None:
        inside = _numpy(mask) != 0
        try:
            inside = np.broadcast_to(inside, array.shape)
        except ValueError as error:
            raise GeometryError(
                f"The mask of shape {inside.shape} does not fit the image of shape {array.shape}: fit on the grid on "
                "which both lie, before any of them is resampled or cropped."
            ) from error
        array = array[inside]
    if array.size == 0:
        raise IntensityError(
            f"No voxel to fit an intensity to: the {'image' if mask is None else 'mask'} is empty. "
            "Check the mask file, or fit without a mask."
        )
    _require_finite(array)
    return array.ravel()


def _numpy(x: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    return np.asarray(x)


def _fitted(low: float, high: float, intensity: Percentiles | ZScore) -> Window:
    if not low < high:
        raise IntensityError(
            f"{intensity} finds the window [{low:g}, {high:g}]: the image is constant where it counts. "
            "Check that the mask covers tissue, or use a fixed Window."
        )
    return Window(low, high, intensity.unit)

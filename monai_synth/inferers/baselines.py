"""Predictions without any training of a network, so that nobody overclaims: what a model must at least beat.

Volumes are numpy arrays of any one shape per case, the condition in its native units, the target in HU. All three
depend on the condition only through its order or its percentiles inside the mask, so a linear change of the MR
intensities changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.io.array import LoadImage
from numpy.typing import NDArray

from monai_synth.data.intensity import Percentiles
from monai_synth.errors import ConfigError, GeometryError, IntensityError

__all__ = ["Baseline", "BodyAsWater", "HistogramMatch", "MeanTargetByCondition", "fit_baselines"]

AIR_HU = -1000.0
Array = NDArray[Any]


class Baseline(ABC):
    """A rule from the condition's intensities to HU, fitted on training patients.

    ``fit(cases)`` reads each case once and keeps sums only, so that ``cases`` may be a generator over a cohort that
    does not fit into memory. ``baseline(item)`` predicts for an item of an evaluator, which makes a dictionary of
    baselines the ``extra_methods`` of :class:`monai_synth.metrics.CaseScores`.
    """

    name: str

    def fit(self, cases: Iterable[Mapping[str, Array]]) -> "Baseline":
        """Learn from training cases.

        Args:
            cases: dictionaries with the arrays ``condition``, ``target`` (HU) and optionally ``mask``.

        Returns:
            The baseline itself.
        """
        self.start()
        for case in cases:
            self.add(case)
        self.finish()
        return self

    @abstractmethod
    def start(self) -> None:
        """Forget what was learnt."""

    @abstractmethod
    def add(self, case: Mapping[str, Array]) -> None:
        """Learn from one more case."""

    @abstractmethod
    def finish(self) -> None:
        """Turn what was gathered into the rule."""

    @abstractmethod
    def predict(self, condition: Array, mask: Array | None) -> NDArray[np.float32]:
        """Predict HU of one volume.

        Args:
            condition: native intensities, any shape.
            mask: same shape, positive inside the body; ``None`` takes everything as body.

        Returns:
            HU in the shape of ``condition``, air outside the mask.
        """

    def __call__(self, item: Mapping[str, Any]) -> NDArray[np.float32]:
        """Predict for an item of an evaluation, as ``CaseScores`` has it.

        Args:
            item: ``native_condition`` (or ``condition``, where that is untouched) ``(C, X, Y, Z)``, of which the first
                channel counts, and ``mask``.

        Returns:
            ``(X, Y, Z)`` in HU.
        """
        mask = item.get("mask")
        condition = item["native_condition"] if "native_condition" in item else item["condition"]
        return self.predict(_numpy(condition)[0], None if mask is None else _numpy(mask)[0])


class BodyAsWater(Baseline):
    """0 HU inside the mask, air outside: knows the outline of the body and nothing else.

    Args:
        air_hu: value outside the mask.
    """

    name = "body_as_water"

    def __init__(self, air_hu: float = AIR_HU) -> None:
        """Store the value of air."""
        self.air_hu = air_hu

    def start(self) -> None:
        """Do nothing, there is nothing to learn."""

    def add(self, case: Mapping[str, Array]) -> None:
        """Do nothing, there is nothing to learn."""

    def finish(self) -> None:
        """Do nothing, there is nothing to learn."""

    def predict(self, condition: Array, mask: Array | None) -> NDArray[np.float32]:
        """Predict, see :meth:`Baseline.predict`."""
        return np.where(_inside(condition, mask), 0.0, self.air_hu).astype(np.float32)


class MeanTargetByCondition(Baseline):
    """The mean HU that voxels of one condition intensity had in the training cohort.

    The best a voxel-wise rule can do in the squared error. Intensities are normalised per image by percentiles inside
    the mask; bins that no voxel fell into are interpolated between their neighbours.

    Args:
        num_bins: number of intensity bins.
        air_hu: value outside the mask.
        intensity: normalisation of the condition; percentiles 0.5 to 99.5 by default.
    """

    name = "mean_target_by_condition"

    def __init__(self, num_bins: int = 64, air_hu: float = AIR_HU, *, intensity: Percentiles | None = None) -> None:
        """Check the number of bins."""
        if num_bins < 2:
            raise ConfigError(f"num_bins is {num_bins}: a table needs at least 2 bins, 64 is usual.")
        self.num_bins, self.air_hu = num_bins, air_hu
        self.intensity = Percentiles(0.5, 99.5) if intensity is None else intensity
        self.table_hu: NDArray[np.floating[Any]] | None = None
        self.start()

    def start(self) -> None:
        """Forget what was learnt."""
        self.table_hu = None
        self._sums = np.zeros(self.num_bins)
        self._counts = np.zeros(self.num_bins)

    def add(self, case: Mapping[str, Array]) -> None:
        """Add the voxels of one case inside its mask to the sums of their bins."""
        condition, target = _inside_values(case)
        if condition.size:
            bins = self._bins(condition)
            self._sums += np.bincount(bins, weights=target, minlength=self.num_bins)
            self._counts += np.bincount(bins, minlength=self.num_bins)

    def finish(self) -> None:
        """Divide, and fill the empty bins."""
        filled = np.flatnonzero(self._counts)
        if not filled.size:
            raise _nothing_to_fit(self.name)
        self.table_hu = np.interp(np.arange(self.num_bins), filled, self._sums[filled] / self._counts[filled])

    def predict(self, condition: Array, mask: Array | None) -> NDArray[np.float32]:
        """Predict, see :meth:`Baseline.predict`."""
        if self.table_hu is None:
            raise _not_fitted(self.name)
        inside = _inside(condition, mask)
        prediction = np.full(condition.shape, self.air_hu, dtype=np.float32)
        if inside.any():
            prediction[inside] = self.table_hu[self._bins(condition[inside])]
        return prediction

    def _bins(self, values: Array) -> NDArray[np.int64]:
        unit = (self.intensity.fit(values).to_network(values) + 1) / 2
        return np.minimum((unit * self.num_bins).astype(np.int64), self.num_bins - 1)


class HistogramMatch(Baseline):
    """The HU of the same rank: gives each image the training cohort's histogram of HU inside the mask.

    Looks like a CT and has the wrong tissue wherever bright MR is not dense, which is why a histogram proves nothing.

    Args:
        num_quantiles: number of stored quantiles of the pooled training CT.
        air_hu: value outside the mask.
    """

    name = "histogram_match"
    _LOWEST_HU, _HIGHEST_HU = -2048, 8192  # counted in steps of 1 HU; values beyond are clipped

    def __init__(self, num_quantiles: int = 256, air_hu: float = AIR_HU) -> None:
        """Check the number of quantiles."""
        if num_quantiles < 2:
            raise ConfigError(f"num_quantiles is {num_quantiles}: needs at least 2, 256 is usual.")
        self.num_quantiles, self.air_hu = num_quantiles, air_hu
        self.quantiles_hu: NDArray[np.floating[Any]] | None = None
        self.start()

    def start(self) -> None:
        """Forget what was learnt."""
        self.quantiles_hu = None
        self._counts = np.zeros(self._HIGHEST_HU - self._LOWEST_HU + 1)

    def add(self, case: Mapping[str, Array]) -> None:
        """Count the HU of one case inside its mask."""
        target = np.clip(np.rint(_inside_values(case)[1].astype(np.float64)), self._LOWEST_HU, self._HIGHEST_HU).astype(
            np.int64
        )
        self._counts += np.bincount(target - self._LOWEST_HU, minlength=self._counts.size)

    def finish(self) -> None:
        """Read the quantiles off the pooled histogram."""
        total = self._counts.sum()
        if total == 0:
            raise _nothing_to_fit(self.name)
        # Rank k of N voxels counted from 0: the value below which the cumulative count first exceeds k.
        ranks = np.linspace(0, total - 1, self.num_quantiles)
        self.quantiles_hu = np.searchsorted(np.cumsum(self._counts), ranks, side="right") + float(self._LOWEST_HU)

    def predict(self, condition: Array, mask: Array | None) -> NDArray[np.float32]:
        """Predict, see :meth:`Baseline.predict`."""
        if self.quantiles_hu is None:
            raise _not_fitted(self.name)
        inside = _inside(condition, mask)
        prediction = np.full(condition.shape, self.air_hu, dtype=np.float32)
        if inside.any():
            _, inverse, counts = np.unique(condition[inside], return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - counts / 2) / counts.sum()  # equal intensities share their middle rank
            levels = np.linspace(0, 1, self.num_quantiles)
            prediction[inside] = np.interp(ranks, levels, self.quantiles_hu)[inverse]
        return prediction


def fit_baselines(cases: Sequence[Mapping[str, Any]], *, max_cases: int = 32, seed: int = 0) -> dict[str, Baseline]:
    """Fit all baselines on training cases, reading each volume once and holding one case at a time.

    Args:
        cases: dictionaries with the paths ``condition``, ``target`` and optionally ``mask`` (NIfTI or MetaImage), as
            :meth:`monai_synth.data.manifest.Manifest.cases` gives them; of a list of paths the first counts.
        max_cases: number of cases to read; a random choice where there are more.
        seed: seed of the choice.

    Returns:
        Fitted baselines by name, ready as ``extra_methods`` of :class:`monai_synth.metrics.CaseScores`.

    Raises:
        ConfigError: if there is no case.
        GeometryError: if the volumes of a case differ in shape.
    """
    if not cases or max_cases < 1:
        raise ConfigError(f"{len(cases)} cases and max_cases={max_cases}: baselines need at least one training case.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(cases))[:max_cases])
    baselines: list[Baseline] = [BodyAsWater(), MeanTargetByCondition(), HistogramMatch()]
    # Built once, because each LoadImage looks for all optional readers anew. dtype=None keeps int16 as it is.
    load = LoadImage(image_only=True, ensure_channel_first=True, dtype=None)
    for index in chosen:
        case = _read_case(cases[index], load)
        for baseline in baselines:
            baseline.add(case)
    for baseline in baselines:
        baseline.finish()
    return {baseline.name: baseline for baseline in baselines}


def _read_case(case: Mapping[str, Any], load: LoadImage) -> dict[str, Array]:
    volumes = {}
    for key in ("condition", "target", "mask"):
        if case.get(key) is not None:
            path = case[key][0] if isinstance(case[key], (list, tuple)) else case[key]
            volumes[key] = _numpy(load(path))[0]
    return volumes


def _inside_values(case: Mapping[str, Array]) -> tuple[Array, Array]:
    """Voxels of condition and target inside the mask, flat."""
    condition, target = case["condition"], case["target"]
    inside = _inside(condition, case.get("mask"))
    if target.shape != condition.shape:
        raise _shape_error("target", target, condition)
    values = condition[inside], target[inside]
    for name, array in zip(("condition", "target"), values, strict=True):
        if not np.isfinite(array).all():
            raise IntensityError(
                f"The {name} of a training case has {int((~np.isfinite(array)).sum())} NaN or infinite values inside "
                "the mask: intensities must be finite. Find it with `monai-synth manifest check`."
            )
    return values


def _inside(condition: Array, mask: Array | None) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(condition.shape, dtype=bool)
    if mask.shape != condition.shape:
        raise _shape_error("mask", mask, condition)
    return np.asarray(mask > 0)


def _shape_error(name: str, array: Array, condition: Array) -> GeometryError:
    return GeometryError(
        f"The {name} has shape {array.shape}, the condition {condition.shape}: a baseline works voxel by voxel and "
        "needs one grid. Resample the condition to the grid of the target."
    )


def _nothing_to_fit(name: str) -> ConfigError:
    return ConfigError(f"Baseline {name!r} saw no voxel: no case was given or all masks are empty. Check the masks.")


def _not_fitted(name: str) -> ConfigError:
    return ConfigError(f"Baseline {name!r} predicts only after fit(); call fit or fit_baselines with training cases.")


def _numpy(image: Any) -> Array:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)

"""Whether a set of synthetic images looks like a set of real ones: a kernel distance between texture features.

For images without a true counterpart, where errors pixel by pixel say little. The value is a KID (Binkowski et al.
2018, https://arxiv.org/abs/1801.01401) on the features of :mod:`monai_synth.metrics.texture` instead of Inception's;
it is called ``texture_kid`` and cannot be compared with a KID or an FID of a paper.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
from ignite.engine import Engine
from numpy.typing import NDArray
from scipy.stats import t as student_t

from monai_synth.data.intensity import Intensity, to_dict
from monai_synth.errors import ConfigError, GeometryError, IntensityError, SynthError
from monai_synth.metrics.case_table import MODEL, CaseMetric, Item, Method, float_array, gather_rows
from monai_synth.metrics.texture import EXTRACTOR, GREY_LEVELS, axial_axis, feature_names, texture_features

__all__ = ["TextureDistance", "kernel_distance", "texture_features"]

Features = NDArray[np.float64]

# As monai_synth.statistics has it: of fewer patients no interval is given.
MIN_PATIENTS = 5


def kernel_distance(x: Features, y: Features) -> float:
    """Unbiased squared maximum mean discrepancy with a polynomial kernel, the KID of Binkowski et al. 2018.

    ``mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`` over all pairs of different samples, with
    ``k(a, b) = (a . b / d + 1)^3``, after each feature has the mean 0 and the standard deviation 1 in the reference and
    passed ``arsinh``: a deviation of many standard deviations counts with its logarithm, so that one feature which
    hardly varies among real images cannot drown all others. A feature that is constant in the reference is shifted
    only. Zero in expectation where both sets come from one
    distribution, and so also negative; the scale, which the reference sets, adds a little where that is small: 0.07
    for 20 reference images and 0.003 for 100 in simulations with 54 features, where half a standard deviation of shift
    gives 1 to 1.5. FID would need more images than features.

    Args:
        x: ``(n, d)``, features of the images to judge, ``n >= 2``.
        y: ``(m, d)``, features of the reference, ``m >= 2``; it sets the scale, so the two may not be exchanged.

    Raises:
        ConfigError: if a set has fewer than two rows or the numbers of features differ.
        IntensityError: if a feature is not finite.
    """
    for name, features in (("x", x), ("y", y)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1:] != y.shape[1:]:
            raise ConfigError(
                f"Features {name} have shape {features.shape}, y {y.shape}: both sets need two dimensions, at least 2 "
                "images and the same number of features, because the distance compares pairs of images."
            )
        if not np.isfinite(features).all():
            raise IntensityError(f"Features {name} hold NaN or infinity. Check the images that they come from.")
    return _unbiased(*_kernels(x, y))


class TextureDistance(CaseMetric):
    """Distance of all predictions of a run from a reference set of real images; lower is better, 0 is equal.

    A value means little alone. Read it beside that of real images that are not in the reference
    (``extra_methods={"real_images": lambda item: item["target"]}``) and of a baseline. Each image counts once; a
    volume is one image. It judges texture only: a network that draws a perfect texture at the wrong place wins. Give a
    reference of other patients: where it holds the evaluated ones, predictions that resemble their own target push the
    value below 0, so that it orders epochs but has no zero. ``describe()["num_shared_patients"]`` counts them.

    Args:
        reference: items with ``target`` ``(C, X, Y)`` or ``(C, X, Y, Z)`` in physical units, such as a
            ``CaseDataset`` of the training cases; read once, when the engine starts first. At least 2.
        key_metric: ``"texture_kid"``.
        pred_key: key of the prediction, same unit, channels and pixel size as the reference.
        target_key: key of the real image in the items of the reference.
        intensity: range of the levels, see :func:`monai_synth.metrics.texture.texture_features`: 8-bit grey levels by
            default; the target's ``Window`` for CT, ``Percentiles`` for MR in arbitrary units.
        max_reference: number of reference images to read; a random choice where there are more.
        seed: seed of the choice.
        extra_methods: name to a function of the item that returns an image; in ``.summary`` only.

    Raises:
        ConfigError: if the reference has fewer than 2 items or an argument is not valid.
    """

    def __init__(
        self,
        reference: Sequence[Any],
        key_metric: str = "texture_kid",
        pred_key: str = "pred",
        *,
        target_key: str = "target",
        intensity: Intensity = GREY_LEVELS,
        max_reference: int = 500,
        seed: int = 0,
        extra_methods: Mapping[str, Method] | None = None,
    ) -> None:
        """Check what can be checked before the reference is read."""
        if key_metric != "texture_kid":
            raise ConfigError(f"key_metric {key_metric!r} is not computed here; it is called 'texture_kid'.")
        if min(len(reference), max_reference) < 2:
            raise ConfigError(
                f"{len(reference)} reference images and max_reference={max_reference}: a distance between sets needs "
                "at least 2 real images, better 100."
            )
        self.reference, self.target_key = reference, target_key
        self.intensity = intensity
        chosen = np.random.default_rng(seed).permutation(len(reference))[:max_reference]
        self._chosen = sorted(int(index) for index in chosen)
        self._reference_features: Features | None = None
        self._reference_patients: frozenset[str] = frozenset()
        self._num_channels = 0
        super().__init__(key_metric, pred_key, extra_methods)

    @property
    def units(self) -> dict[str, str]:
        """Unit by metric: the distance has none."""
        return {self.key_metric: ""}

    def describe(self) -> dict[str, Any]:
        """Extractor, kernel and the numbers of images that the value stands on, in JSON types."""
        table = self._table()
        model = table[table["method"] == MODEL]
        return {
            "extractor": EXTRACTOR,
            "num_features": len(feature_names(self._num_channels)) if self._num_channels else None,
            "kernel": "unbiased polynomial MMD^2 of degree 3 (KID, Binkowski 2018), standardised by the reference",
            "num_images": len(model),
            "num_patients": int(model["patient_id"].nunique()),
            "num_reference": len(self._chosen),
            "num_shared_patients": len(self._reference_patients & set(model["patient_id"])),
            "intensity": to_dict(self.intensity),
        }

    @property
    def summary(self) -> pd.DataFrame:
        """Distance of every method, in the columns of ``summary.csv``.

        ``method, metric, unit, n, mean, ci_low, ci_high``: ``n`` is the number of patients and ``mean`` the distance;
        the 95 % interval is a jackknife over the patients with the reference as it is, and NaN for fewer than 5
        patients. Of all ranks after :meth:`compute`.
        """
        columns = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
        table = self._table()
        if table.empty or self._reference_features is None:
            return pd.DataFrame(columns=columns)
        rows = []
        for method, group in table.groupby("method", sort=False):
            value, low, high = self._estimate(group)
            rows.append([method, self.key_metric, "", group["patient_id"].nunique(), value, low, high])
        return pd.DataFrame(rows, columns=columns)

    def started(self, engine: Engine) -> None:
        """Forget all cases, and read the reference where that is still to do."""
        super().started(engine)
        self._prepare()

    def compute(self) -> float:
        """Distance of the model's predictions of all ranks; every rank must call. NaN, with a warning, for one image.

        Raises:
            NotComputableError: if no case was seen on any rank.
        """
        table = self._gather()
        self._prepare()
        for num_channels in table["channels"].unique():
            self._refuse_other_channels(int(num_channels))
        model = table[table["method"] == MODEL]
        if len(model) < 2:
            warnings.warn(
                f"{self.key_metric} is NaN: a distance between sets needs at least 2 predictions, not {len(model)}. "
                "Validate on more cases, or choose the model by another metric.",
                RuntimeWarning,
                stacklevel=2,
            )
        return self._estimate(model)[0]

    def completed(self, engine: Engine, name: str) -> None:
        """Write the distance under ``name`` into ``engine.state.metrics``."""
        engine.state.metrics[name] = self.compute()

    def _given(self, item: Item, case_id: str) -> tuple[int, int]:
        prediction = item[self.pred_key]
        return axial_axis(prediction), np.ndim(prediction)

    def _row(self, prediction: Any, *given: Any) -> dict[str, Any]:
        axis, num_axes = given
        array = float_array(prediction)
        if array.ndim == num_axes - 1:  # a method may leave out the only channel
            array = array[None]
        self._refuse_other_channels(len(array))
        return {"channels": len(array), "features": texture_features(array, intensity=self.intensity, axis=axis)}

    def _refuse_other_channels(self, num_channels: int) -> None:
        if self._num_channels and num_channels != self._num_channels:
            raise GeometryError(
                f"The prediction has {num_channels} channels, the reference images {self._num_channels}: load both as "
                "colours or both as grey levels."
            )

    def _prepare(self) -> None:
        """Read the reference, each rank its share; every rank must call."""
        if self._reference_features is not None:
            return
        mine = self._chosen[idist.get_rank() :: idist.get_world_size()]
        rows = gather_rows([{"index": index, **self._describe_reference(index)} for index in mine])
        rows.sort(key=lambda row: row["index"])
        channels = sorted({row["channels"] for row in rows})
        if len(channels) > 1:
            raise GeometryError(
                f"The reference has images of {' and '.join(map(str, channels))} channels: load all as colours or all "
                "as grey levels, by the reader's converter."
            )
        features = np.stack([row["features"] for row in rows])
        if (features == features[0]).all():
            raise IntensityError(
                f"All {len(rows)} reference images have the same texture: they are one image, or constant in the range "
                f"of {self.intensity}. Give the intensity that belongs to their unit."
            )
        self._num_channels = channels[0]
        self._reference_features = features
        self._reference_patients = frozenset(row["patient_id"] for row in rows if row["patient_id"] is not None)

    def _describe_reference(self, index: int) -> dict[str, Any]:
        item = self.reference[index]
        image = self._get(item, self.target_key)
        try:
            features = texture_features(image, intensity=self.intensity, axis=axial_axis(image))
        except SynthError as error:
            name = item.get("case_id", index)
            raise type(error)(f"Reference image {name!r}, {self.target_key!r}: {error}") from error
        patient = item.get("patient_id")
        return {
            "features": features,
            "channels": image.shape[0],
            "patient_id": None if patient is None else str(patient),
        }

    def _estimate(self, group: pd.DataFrame) -> tuple[float, float, float]:
        """Distance of one method's images with the ends of its interval."""
        if len(group) < 2 or self._reference_features is None:
            return (float("nan"),) * 3
        features = np.stack(list(group["features"]))
        kernels = _kernels(features, self._reference_features)
        patients = group["patient_id"].to_numpy()
        return _unbiased(*kernels), *_jackknife(*kernels, patients)


def _kernels(x: Features, y: Features) -> tuple[Features, Features, float]:
    """``k(x, x')`` with 0 for a sample with itself, mean over y of ``k(x, y)``, and mean of ``k(y, y')``."""
    mean, std = y.mean(axis=0), y.std(axis=0)
    std[std < 1e-6] = 1.0
    x, y = np.arcsinh((x - mean) / std), np.arcsinh((y - mean) / std)
    xx, yy = _kernel(x, x), _kernel(y, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    return xx, _kernel(x, y).mean(axis=1), float(yy.sum() / (len(y) * (len(y) - 1)))


def _kernel(x: Features, y: Features) -> Features:
    kernel: Features = (x @ y.T / x.shape[1] + 1.0) ** 3
    return kernel


def _unbiased(xx: Features, xy: Features, yy: float) -> float:
    num_images = len(xx)
    return float(xx.sum() / (num_images * (num_images - 1)) + yy - 2 * xy.mean())


def _jackknife(xx: Features, xy: Features, yy: float, patients: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of the distance from leaving out one patient after the other.

    A bootstrap would draw images twice, and the kernel of an image with itself is what the estimator leaves out.
    """
    names = np.unique(patients)
    num = len(names)
    if num < MIN_PATIENTS:
        return float("nan"), float("nan")
    left = []
    for name in names:
        keep = patients != name
        if keep.sum() < 2:
            return float("nan"), float("nan")
        left.append(_unbiased(xx[np.ix_(keep, keep)], xy[keep], yy))
    half = student_t.ppf(0.975, num - 1) * np.sqrt((num - 1) / num * np.square(np.array(left) - np.mean(left)).sum())
    value = _unbiased(xx, xy, yy)
    return float(value - half), float(value + half)

"""Predictions from a label map without any network, for images of any kind: what a model must at least beat.

Label maps hold ids, targets any number of channels in the physical unit of the images. Synthetic CT has its own
baselines in :mod:`monai_synth.inferers.baselines`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms.io.array import LoadImage
from numpy.typing import NDArray

from monai_synth.data.labels import LabelTable, whole_numbers
from monai_synth.errors import ConfigError, GeometryError, IntensityError, LabelError, SynthError

__all__ = ["MeanTargetByLabel", "fit_image_baselines"]

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
Array = NDArray[Any]
AnyTable = LabelTable | Mapping[Any, Any] | Sequence[str] | int | str | Path


class MeanTargetByLabel:
    """The mean intensity or colour that pixels of each label had in the training images.

    The best a rule can do in the squared error that knows the label of a pixel and nothing else. A label that no
    training image has gets the mean over all pixels.

    Args:
        labels: the table by which conditions were made one-hot; needed only where items have no ids.
    """

    name = "mean_target_by_label"

    def __init__(self, *, labels: AnyTable | None = None) -> None:
        """Start without knowledge."""
        self.labels = None if labels is None else LabelTable.of(labels)
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._counts: dict[int, int] = {}

    @property
    def means(self) -> dict[int, NDArray[np.float64]]:
        """Mean ``(C,)`` in the unit of the images, by id."""
        return {label: self._sums[label] / self._counts[label] for label in sorted(self._sums)}

    def add(self, item: Mapping[str, Any]) -> None:
        """Learn from one more training image.

        Args:
            item: the arrays ``target`` ``(C, *spatial)`` and ``native_condition`` or ``condition``, see
                :meth:`__call__`.

        Raises:
            GeometryError: if the label map and the target differ in size, or the targets in their channels.
            IntensityError: if the target is not finite.
            LabelError: if the condition does not hold ids.
        """
        ids, target = self._ids(item), _numpy(item["target"])
        if target.shape[1:] != ids.shape:
            raise GeometryError(
                f"The label map has shape {ids.shape}, the target {target.shape}: a baseline works pixel by pixel and "
                "needs one grid. Resize the label map to the target, with nearest neighbour."
            )
        if self._sums and len(next(iter(self._sums.values()))) != len(target):
            raise GeometryError(
                f"The target has {len(target)} channels, those before had {len(next(iter(self._sums.values())))}: load "
                "all as colours or all as grey levels."
            )
        if not np.isfinite(target).all():
            raise IntensityError(
                f"The target has {int((~np.isfinite(target)).sum())} NaN or infinite values: intensities must be "
                "finite. Find it with `monai-synth manifest check`."
            )
        labels, places = np.unique(ids, return_inverse=True)
        counts = np.bincount(places.ravel())
        sums = np.stack([np.bincount(places.ravel(), weights=channel.ravel()) for channel in target], axis=1)
        for label, count, total in zip(labels.tolist(), counts.tolist(), sums, strict=True):
            self._sums[label] = self._sums.get(label, 0.0) + total
            self._counts[label] = self._counts.get(label, 0) + count

    def __call__(self, item: Mapping[str, Any]) -> NDArray[np.float32]:
        """Predict for an item of an evaluation, as ``ImageScores`` and ``TextureDistance`` have it.

        Args:
            item: ``native_condition`` (or ``condition``, where that is untouched) with ids ``(1, *spatial)``; a
                one-hot condition ``(num_classes, *spatial)`` needs ``labels``.

        Returns:
            ``(C, *spatial)`` in the unit of the images.

        Raises:
            ConfigError: if no image was learnt from.
            LabelError: if the condition does not hold ids.
        """
        if not self._sums:
            raise ConfigError(
                f"Baseline {self.name!r} predicts only after training images; use fit_image_baselines or call add."
            )
        labels, places = np.unique(self._ids(item), return_inverse=True)
        means, overall = self.means, sum(self._sums.values()) / sum(self._counts.values())
        colours = np.stack([means.get(label, overall) for label in labels.tolist()])
        return np.ascontiguousarray(np.moveaxis(colours[places], -1, 0), dtype=np.float32)

    def _ids(self, item: Mapping[str, Any]) -> NDArray[np.int64]:
        """Ids ``spatial`` of an item."""
        key = "native_condition" if "native_condition" in item else "condition"
        condition = item[key]
        if len(condition) == 1:
            ids = whole_numbers(condition[0], source=f"{key!r}").cpu().numpy()
            if self.labels is not None:
                self.labels.check(ids)
            return np.asarray(ids)
        if self.labels is None or len(condition) != self.labels.num_classes:
            known = "labels were not given" if self.labels is None else f"labels has {self.labels.num_classes} classes"
            raise LabelError(
                f"{key!r} has {len(condition)} channels and {known}: a baseline by label needs ids, one channel. Keep "
                "them as native_condition (CopyItemsd before OneHotd), or give the table that made the channels."
            )
        channels = _numpy(condition)
        nowhere = channels.max(axis=0) <= 0  # unknown pixels have no channel
        return np.asarray(self.labels.to_ids(np.where(nowhere, -1, channels.argmax(axis=0))))


def fit_image_baselines(
    cases: Sequence[Mapping[str, Any]],
    *,
    labels: AnyTable | None = None,
    channels: int = 3,
    max_cases: int = 200,
    seed: int = 0,
) -> dict[str, MeanTargetByLabel]:
    """Fit the baselines of label map to image on training cases, holding one case at a time.

    Args:
        cases: dictionaries with the paths ``condition`` and ``target`` (PNG, JPEG, TIFF, NIfTI, …), as
            :meth:`monai_synth.data.manifest.Manifest.cases` gives them; of a list of paths the first counts. Or a
            dataset of loaded items, where the transforms of a bundle shall read them: arrays ``target`` and
            ``native_condition`` or ``condition``.
        labels: label table of the conditions; refuses ids that it does not name.
        channels: how PNG, JPEG and TIFF targets are read: 3 as colours, 1 as grey levels.
        max_cases: number of cases to read; a random choice where there are more.
        seed: seed of the choice.

    Returns:
        Fitted baselines by name, ready as ``extra_methods`` of :class:`monai_synth.metrics.ImageScores` and
        :class:`monai_synth.metrics.TextureDistance`.

    Raises:
        ConfigError: if there is no case, or ``channels`` is neither 1 nor 3.
        SynthError: of the kind of :meth:`MeanTargetByLabel.add`, with the case's name.
    """
    if not len(cases) or max_cases < 1:
        raise ConfigError(f"{len(cases)} cases and max_cases={max_cases}: baselines need at least one training case.")
    if channels not in (1, 3):
        raise ConfigError(f"channels is {channels}: an image is read as colours (3) or as grey levels (1).")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(cases))[:max_cases])
    baseline = MeanTargetByLabel(labels=labels)
    read = _Reader("RGB" if channels == 3 else "L")
    for index in chosen.tolist():
        case = cases[index]
        try:
            baseline.add({key: read(key, case[key]) for key in _keys(case)})
        except SynthError as error:
            raise type(error)(f"Training case {case.get('case_id', index)!r}: {error}") from error
    return {baseline.name: baseline}


class _Reader:
    """Reads what is a path, and leaves what is loaded."""

    def __init__(self, mode: str) -> None:
        # Built once, because each LoadImage looks for all optional readers anew. dtype=None keeps integers as they are.
        arguments: dict[str, Any] = {"image_only": True, "ensure_channel_first": True, "dtype": None}
        self.volume = LoadImage(**arguments)
        self.photograph = LoadImage(reader="PILReader", converter=lambda image: image.convert(mode), **arguments)
        self.label_map = LoadImage(reader="PILReader", converter=_one_channel, **arguments)

    def __call__(self, key: str, value: Any) -> Any:
        path = value[0] if isinstance(value, list | tuple) else value
        if not isinstance(path, str | Path):
            return value
        if not str(path).lower().endswith(PHOTOGRAPHS):
            return self.volume(path)[:1]
        return (self.photograph if key == "target" else self.label_map)(path)


def _keys(case: Mapping[str, Any]) -> list[str]:
    if missing := {"condition", "target"} - set(case) - ({"condition"} if "native_condition" in case else set()):
        raise ConfigError(f"The case has the keys {sorted(case)}, not {sorted(missing)[0]!r}. Name the roles of both.")
    return ["native_condition" if "native_condition" in case else "condition", "target"]


def _one_channel(image: Any) -> Any:
    """A label map saved as a colour picture in grey becomes grey; palettes and 16 bit hold their ids already."""
    if image.mode in ("RGB", "RGBA"):
        red, green, blue = (np.asarray(band) for band in image.split()[:3])
        # True colours stay three channels, which no table of ids fits.
        return image.convert("L") if np.array_equal(red, green) and np.array_equal(red, blue) else image.convert("RGB")
    return image.convert("L") if image.mode in ("1", "LA") else image


def _numpy(image: Any) -> Array:
    return image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)

"""One row of scores per case, collected while an engine evaluates volumes.

Items of ``engine.state.output`` are dictionaries of one case, as MONAI's decollating evaluators leave them: ``pred``,
``target`` and ``mask`` of shape ``(1, X, Y, Z)`` in HU on the native grid, and the strings ``case_id`` and
``patient_id``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from numpy.typing import NDArray

from monai_synth.data.grids import refuse_other_grids
from monai_synth.errors import ConfigError, GeometryError, LabelError, SynthError
from monai_synth.metrics.synthrad import PRESETS, score_case
from monai_synth.metrics.tissue import BINS_HU, BinsHU, check_bins, tissue_mae

__all__ = ["MODEL", "CaseScores"]

MODEL = "model"
ID_COLUMNS = ("method", "patient_id", "case_id")

Item = Mapping[str, Any]
Method = Callable[[Any], NDArray[Any]]


class CaseScores(Metric):
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
        self.key_metric = key_metric
        self.pred_key, self.target_key, self.mask_key = pred_key, target_key, mask_key
        self.extra_methods = dict(extra_methods or {})
        if MODEL in self.extra_methods:
            raise ConfigError(f"An extra method is called {MODEL!r}, the name of the network's row; rename it.")
        structural = ["ssim", "ssim_2d"] if PRESETS[preset].structural == "ssim" else ["ms_ssim"]
        names = ["mae_hu", "me_hu", "psnr_db", *structural, *(f"mae_{name}_hu" for name in self.bins_hu)]
        if key_metric not in names:
            raise ConfigError(
                f"key_metric {key_metric!r} is not computed with preset {preset!r}; choose one of {names}."
            )
        super().__init__()

    def reset(self) -> None:
        """Forget all cases."""
        self._rows: list[dict[str, Any]] = []
        self._gathered: list[dict[str, Any]] | None = None

    def update(self, output: Sequence[Item] | Item) -> None:
        """Score cases.

        Args:
            output: items as in the description of the module; a single one counts as a list of one.

        Raises:
            ConfigError: if an item lacks a key.
            GeometryError: if shapes differ.
            IntensityError: if a prediction is not finite inside its mask.
        """
        self._gathered = None
        for item in (output,) if isinstance(output, Mapping) else output:
            identity = {"patient_id": str(self._get(item, "patient_id")), "case_id": str(self._get(item, "case_id"))}
            target = self._get(item, self.target_key)
            mask = None if self.mask_key is None else self._get(item, self.mask_key)
            predictions: dict[str, Any] = {MODEL: self._get(item, self.pred_key)}
            images = {self.target_key: target, self.pred_key: predictions[MODEL]}
            refuse_other_grids(images | ({} if mask is None else {"mask": mask}), case=identity["case_id"])
            predictions |= {name: method(item) for name, method in self.extra_methods.items()}
            for method, prediction in predictions.items():
                try:
                    scores = self._score(prediction, target, mask)
                except SynthError as error:
                    raise type(error)(f"Case {identity['case_id']!r}, method {method!r}: {error}") from error
                self._rows.append({"method": method, **identity, **scores})

    def compute(self) -> dict[str, float]:
        """Means of the model's scores over the patients of all ranks; every rank must call.

        Raises:
            NotComputableError: if no case was scored on any rank.
        """
        rows = self._rows
        if idist.get_world_size() > 1:
            parts = cast(list[list[dict[str, Any]]], idist.all_gather(self._rows))
            rows = [row for part in parts for row in part]
        self._gathered = rows
        table = self.table
        if table.empty:
            raise NotComputableError("CaseScores must see at least one case before it can be computed.")
        model = table[table["method"] == MODEL]
        metrics = [column for column in table.columns if column not in ID_COLUMNS]
        means = model.groupby("patient_id")[metrics].mean().mean()
        return {name: float(means[name]) for name in metrics}

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        """Score what the engine's iteration left; ignite's own version would unroll the list."""
        self.update(engine.state.output)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the key metric under ``name`` and all others under their own names into ``engine.state.metrics``."""
        means = self.compute()
        key = means.pop(self.key_metric, float("nan"))  # ssim_2d is absent where no case is a slice
        engine.state.metrics.update(means)
        engine.state.metrics[name] = key

    @property
    def table(self) -> pd.DataFrame:
        """One row per method and case, sorted by case: ``method, patient_id, case_id`` and the scores.

        Rows of all ranks after :meth:`compute`, of this rank before.
        """
        rows = self._rows if self._gathered is None else self._gathered
        if not rows:
            return pd.DataFrame(columns=list(ID_COLUMNS))
        # A DistributedSampler repeats cases to give every rank the same number.
        table = pd.DataFrame(rows).drop_duplicates(["method", "case_id"])
        order = {name: index for index, name in enumerate([MODEL, *self.extra_methods])}
        table = table.sort_values(["case_id", "method"], key=lambda s: s.map(order) if s.name == "method" else s)
        return table.reset_index(drop=True)

    def _get(self, item: Item, key: str) -> Any:
        if key not in item:
            raise ConfigError(
                f"An item of the engine's output has the keys {sorted(item)}, not {key!r}. Carry it through the "
                "transforms, or name the right key (mask_key=None scores without a mask)."
            )
        return item[key]

    def _score(self, prediction: Any, target: Any, mask: Any) -> dict[str, float]:
        x, y = _volume(prediction, "prediction"), _volume(target, "target")
        inside = np.ones(y.shape, dtype=bool) if mask is None else _inside(_volume(mask, "mask"))
        scores = score_case(x, y, inside, self.preset)
        error = x[inside].astype(np.float64) - y[inside]
        tissue = tissue_mae(x, y, mask=inside, bins_hu=self.bins_hu)
        return {
            "mae_hu": scores.pop("mae_hu"),
            "me_hu": float(error.mean()) if error.size else float("nan"),
            **scores,
            **{name: value for name, value in tissue.items() if name.startswith("mae_")},
        }


def _inside(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels that count; a mask that cannot be meant so is refused, because it would change every number unseen."""
    if not np.array_equal(mask, np.rint(mask)):
        raise LabelError(
            "The mask holds values between whole numbers; every voxel above 0 would count. Resample masks with nearest "
            "neighbour, or threshold it."
        )
    if not (mask > 0).any():
        raise LabelError("The mask is empty: no voxel is above 0. Draw it again, or take the case out of the manifest.")
    return mask > 0


def _volume(image: Any, name: str) -> NDArray[Any]:
    """Turn ``(1, X, Y, Z)`` or ``(X, Y, Z)`` into a float32 array ``(Z, Y, X)``."""
    array = image.detach().float().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image, np.float32)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise GeometryError(
            f"The {name} has shape {array.shape}: scores need one channel of one volume, (1, X, Y, Z). Decollate the "
            "batch, and evaluate slices as volumes with a singleton axis."
        )
    return array.transpose(2, 1, 0)

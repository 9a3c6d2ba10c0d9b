"""What metrics of whole cases share under Ignite: one row per method and case, gathered over ranks, mean over patients.

Items of ``engine.state.output`` are dictionaries of one case, as MONAI's decollating evaluators leave them: ``pred``
and what it is compared with, in physical units on the native grid, and the strings ``case_id`` and ``patient_id``.
"""

from abc import abstractmethod
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
from monai_synth.errors import ConfigError, LabelError, SynthError

__all__ = ["ID_COLUMNS", "MODEL", "CaseMetric", "CaseTable", "Item", "Method"]

MODEL = "model"
ID_COLUMNS = ("method", "patient_id", "case_id")

Item = Mapping[str, Any]
Method = Callable[[Any], NDArray[Any]]


class CaseMetric(Metric):
    """Rows of cases: collects them, gathers them over ranks and counts each case once.

    A subclass says in :meth:`_given` what a prediction is compared with and in :meth:`_row` what it makes of both.

    Args:
        key_metric: the value that ``engine.state.metrics`` gets under the name given in ``attach``.
        pred_key: key of the prediction.
        extra_methods: name to a function of the item that returns a prediction in physical units; it is treated as
            the network's, by the same code, and enters tables only.

    Raises:
        ConfigError: if a method is called ``"model"``.
    """

    def __init__(self, key_metric: str, pred_key: str, extra_methods: Mapping[str, Method] | None) -> None:
        """Check the names before a long evaluation starts."""
        self.key_metric = key_metric
        self.pred_key = pred_key
        self.extra_methods = dict(extra_methods or {})
        if MODEL in self.extra_methods:
            raise ConfigError(f"An extra method is called {MODEL!r}, the name of the network's row; rename it.")
        super().__init__()

    @property
    @abstractmethod
    def units(self) -> dict[str, str]:
        """Unit by metric, ``""`` where a metric has none."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say in JSON types what is computed, for the record of an evaluation."""

    @abstractmethod
    def _given(self, item: Item, case_id: str) -> tuple[Any, ...]:
        """Take from an item what predictions are compared with, and check it."""

    @abstractmethod
    def _row(self, prediction: Any, *given: Any) -> dict[str, Any]:
        """Make the row of one prediction, without its names."""

    def reset(self) -> None:
        """Forget all cases."""
        self._rows: list[dict[str, Any]] = []
        self._gathered: list[dict[str, Any]] | None = None

    def update(self, output: Sequence[Item] | Item) -> None:
        """Take cases in.

        Args:
            output: items as in the description of the module; a single one counts as a list of one.

        Raises:
            ConfigError: if an item lacks a key.
            GeometryError: if shapes differ.
            IntensityError: if a prediction is not finite where it counts.
        """
        self._gathered = None
        for item in (output,) if isinstance(output, Mapping) else output:
            identity = {"patient_id": str(self._get(item, "patient_id")), "case_id": str(self._get(item, "case_id"))}
            predictions: dict[str, Any] = {MODEL: self._get(item, self.pred_key)}
            given = self._given(item, identity["case_id"])
            predictions |= {name: method(item) for name, method in self.extra_methods.items()}
            for method, prediction in predictions.items():
                try:
                    row = self._row(prediction, *given)
                except SynthError as error:
                    raise type(error)(f"Case {identity['case_id']!r}, method {method!r}: {error}") from error
                self._rows.append({"method": method, **identity, **row})

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        """Take in what the engine's iteration left; ignite's own version would unroll the list."""
        self.update(engine.state.output)

    def _gather(self) -> pd.DataFrame:
        """Rows of all ranks; every rank must call.

        Raises:
            NotComputableError: if no rank saw a case.
        """
        self._gathered = gather_rows(self._rows)
        table = self._table()
        if table.empty:
            raise NotComputableError(f"{type(self).__name__} must see at least one case before it can be computed.")
        return table

    def _table(self) -> pd.DataFrame:
        """One row per method and case, sorted by case; of all ranks after :meth:`_gather`, of this rank before."""
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


class CaseTable(CaseMetric):
    """Scores of a prediction against its target, one row per method and case, averaged over patients.

    The mean of a score is taken over the cases of each patient first, then over patients, because the cases of one
    patient are not independent. NaN (a score that is not defined for a case) is left out.

    Args:
        key_metric: see :class:`CaseMetric`.
        pred_key: key of the prediction.
        target_key: key of the target.
        mask_key: key of the mask; ``None`` scores all voxels.
        extra_methods: see :class:`CaseMetric`.
    """

    def __init__(
        self,
        key_metric: str,
        pred_key: str,
        target_key: str,
        mask_key: str | None,
        extra_methods: Mapping[str, Method] | None,
    ) -> None:
        """Store the keys."""
        self.target_key, self.mask_key = target_key, mask_key
        super().__init__(key_metric, pred_key, extra_methods)

    @abstractmethod
    def _score(self, prediction: Any, target: Any, mask: Any) -> dict[str, float]:
        """Score one prediction; ``mask`` is ``None`` where all voxels count."""

    def compute(self) -> dict[str, float]:
        """Means of the model's scores over the patients of all ranks; every rank must call.

        Raises:
            NotComputableError: if no case was scored on any rank.
        """
        table = self._gather()
        model = table[table["method"] == MODEL]
        metrics = [column for column in table.columns if column not in ID_COLUMNS]
        means = model.groupby("patient_id")[metrics].mean().mean()
        return {name: float(means[name]) for name in metrics}

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
        return self._table()

    def _given(self, item: Item, case_id: str) -> tuple[Any, Any]:
        target = self._get(item, self.target_key)
        mask = None if self.mask_key is None else self._get(item, self.mask_key)
        images = {self.target_key: target, self.pred_key: item[self.pred_key]}
        refuse_other_grids(images | ({} if mask is None else {"mask": mask}), case=case_id)
        return target, mask

    def _row(self, prediction: Any, *given: Any) -> dict[str, float]:
        return self._score(prediction, *given)


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all ranks, in the order of the ranks; every rank must call."""
    if idist.get_world_size() == 1:
        return rows
    parts = cast(list[list[dict[str, Any]]], idist.all_gather(rows))
    return [row for part in parts for row in part]


def float_array(image: Any) -> NDArray[np.float32]:
    """Turn a tensor on any device, or what numpy can read, into a float32 array."""
    return image.detach().float().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image, np.float32)


def inside_of(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels that count; a mask that cannot be meant so is refused, because it would change every number unseen.

    Raises:
        LabelError: if the mask is empty or was interpolated.
    """
    if not np.array_equal(mask, np.rint(mask)):
        raise LabelError(
            "The mask holds values between whole numbers; every voxel above 0 would count. Resample masks with nearest "
            "neighbour, or threshold it."
        )
    if not (mask > 0).any():
        raise LabelError("The mask is empty: no voxel is above 0. Draw it again, or take the case out of the manifest.")
    return mask > 0

"""Pairs are made by id, never by position: a batch says which cases its conditions and targets come from.

A pixel loss between images of two patients teaches a generator to blur (or to hallucinate), without any error.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from monai_synth.errors import ConfigError
from monai_synth.objectives.base import Batch

__all__ = ["refuse_unpaired", "require_unpaired"]


def refuse_unpaired(batch: Batch) -> None:
    """Stop a method that compares prediction and target voxel by voxel when they are not of the same case.

    Args:
        batch: ``case_id`` and ``target_case_id``, one id per item, as
            :class:`monai_synth.data.unpaired.UnpairedDataset` gives them. A batch without either of them passes: its
            items hold one case each, as those of :class:`monai_synth.data.SliceDataset`.

    Raises:
        ConfigError: naming the first ids that differ.
    """
    if "case_id" not in batch or "target_case_id" not in batch:
        return
    conditions, targets = _ids(batch["case_id"]), _ids(batch["target_case_id"])
    if conditions == targets:
        return
    pairs = list(zip(conditions, targets, strict=False))
    first = next((pair for pair in pairs if pair[0] != pair[1]), (conditions, targets))
    num_unpaired = sum(condition != target for condition, target in pairs) + abs(len(conditions) - len(targets))
    raise ConfigError(
        f"{num_unpaired} of {max(len(conditions), len(targets))} items of the batch have condition and target of "
        f"different cases (first: {first[0]!r} and {first[1]!r}), but this objective compares them voxel by voxel. "
        "Use data that is paired by case_id, or an objective for unpaired data (CycleGan, Cut)."
    )


def require_unpaired(batch: Batch, key: str, *, method: str) -> Tensor:
    """Give an image of a batch in which nothing has to be paired.

    Args:
        batch: as the engine hands it over.
        key: ``"condition"`` or ``"target"``.
        method: name of the objective, for the message.

    Raises:
        ConfigError: if the batch does not have it.
    """
    value = batch.get(key)
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"{method} needs {key!r}, but the batch has none (it has: {', '.join(batch) or 'nothing'}). Give it images "
            "of both kinds, of whatever patients: monai_synth.data.unpaired.UnpairedDataset draws them."
        )
    return value


def _ids(value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [str(item) for item in value.tolist()] if hasattr(value, "tolist") else [str(value)]
    return [str(item) for item in value]

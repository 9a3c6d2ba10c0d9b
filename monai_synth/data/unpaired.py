"""Conditions and targets of different patients, for methods that learn without pairs.

Nothing is paired by position: for each condition a target is drawn among the slices of all other patients.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from monai_synth.data.manifest import Manifest
from monai_synth.data.slices import SliceDataset
from monai_synth.errors import ConfigError, ManifestError

__all__ = ["UnpairedDataset", "separate_patients"]


class UnpairedDataset(Dataset[dict[str, Any]]):
    """Every slice of one side with a random slice of another patient from the other side.

    The sides may be two cohorts, or two roles of one cohort whose pairs are not to be used (a lower bound for what
    pairing is worth). A patient is one by ``patient_id`` on both sides, so cohorts that number their patients alike
    only lose a few draws. The draw depends on seed, epoch and index alone: the number of workers does not matter, and
    a resumed training sees what an uninterrupted one would.

    Args:
        conditions: slices with the key ``"condition"``; an epoch goes through all of them once.
        targets: slices with the key ``"target"``; drawn with equal probability, so an epoch leaves some out and over
            epochs all are used.
        seed: seed of the draw.

    Raises:
        ConfigError: if a side lacks its key.
        ManifestError: if a patient would have no target, as in a cohort of a single one.
    """

    def __init__(self, conditions: SliceDataset, targets: SliceDataset, *, seed: int = 0) -> None:
        for side, key in ((conditions, "condition"), (targets, "target")):
            if key not in side.keys:
                raise ConfigError(
                    f"The {key}s have no {key!r}, they have {', '.join(side.keys)}. Build their SliceDataset with "
                    f"keys=({key!r}, ...) and cases with this role."
                )
        self.conditions = conditions
        self.targets = targets
        self.seed = seed
        names = sorted({*conditions.patient_ids, *targets.patient_ids})
        self._patients = _patients_of_slices(conditions, names)
        # Targets sorted by patient, so that those of one patient can be left out as a block.
        patients = _patients_of_slices(targets, names)
        self._order = np.argsort(patients, kind="stable").astype(np.int32)
        self._bounds = np.searchsorted(patients[self._order], np.arange(len(names) + 1))
        alone = np.flatnonzero(np.diff(self._bounds) == len(patients))
        if np.isin(alone, self._patients).any():
            raise ManifestError(
                f"All {len(patients)} target slices are of patient {names[alone[0]]!r}, who also has conditions: there "
                "is no target of another patient. Unpaired training takes two patients or more; check the split or "
                "fold."
            )
        # Shared, so that persistent workers see a new epoch too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw other targets and augmentations from now on, the same for the same epoch."""
        self._epoch.fill_(epoch)
        self.conditions.set_epoch(epoch)
        self.targets.set_epoch(epoch)

    def __len__(self) -> int:
        """Number of slices with a condition."""
        return len(self.conditions)

    def draw(self, index: int) -> int:
        """Which of the targets goes with condition ``index`` in this epoch."""
        start, end = self._bounds[self._patients[index] :][:2]
        random = np.random.default_rng([self.seed, int(self._epoch.item()), index])
        place = random.integers(len(self._order) - (end - start))
        return int(self._order[place if place < start else place + end - start])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a condition and the target that was drawn for it.

        Returns:
            All of the condition's item but its ``target``; ``target`` ``(C, H, W)``, and what else the target's item
            holds with ``target_`` in front: ``target_case_id``, ``target_patient_id``, ``target_slice_index`` and,
            where it has one, ``target_mask``.
        """
        index = range(len(self))[index]
        item = {key: value for key, value in self.conditions[index].items() if key != "target"}
        other = {key: value for key, value in self.targets[self.draw(index)].items() if key != "condition"}
        return item | {key if key == "target" else f"target_{key}": value for key, value in other.items()}


def separate_patients(manifest: Manifest, first: str, second: str, *, seed: int = 0) -> Manifest:
    """Make a cohort of pairs truly unpaired: every patient who has images of both roles keeps those of one.

    Half of these patients, drawn at random, keep ``first`` and the others ``second`` (the odd one too); cells of the
    other role become empty. Patients who have one of the roles only stay as they are.

    Args:
        manifest: the cohort, usually its training part.
        first: role, such as ``"mr"``.
        second: role, such as ``"ct"``.
        seed: seed of the draw.

    Raises:
        ManifestError: if a role is no column.
    """
    manifest.require_roles((first, second))
    table = manifest.table.copy()
    has_both = table.groupby("patient_id")[[first, second]].count().gt(0).all(axis=1)
    patients = sorted(has_both.index[has_both])
    drawn = np.random.default_rng(seed).permutation(len(patients))
    keep_first = {patients[number] for number in drawn[: len(patients) // 2]}
    of_first = table["patient_id"].isin(keep_first)
    of_second = table["patient_id"].isin(set(patients) - keep_first)
    table.loc[of_first, second] = pd.NA
    table.loc[of_second, first] = pd.NA
    return replace(manifest, table=table)


def _patients_of_slices(dataset: SliceDataset, names: list[str]) -> np.ndarray:
    """Place in ``names`` of the patient of every item ``(len(dataset),)``, without reading one."""
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[name] for name in dataset.patient_ids], dtype=np.int32)[dataset._case_of]

"""Train, validation and test splits and cross-validation folds, always by patient.

A patient's place depends on the seed, the set of patient ids and the stratum, never on the order of rows, on the
machine or on a library's random generator: patients are ordered by a hash of seed and id.
"""

import hashlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pandas as pd

from monai_synth.data.manifest import ID_COLUMNS, SPLITS, Manifest, with_column
from monai_synth.errors import ManifestError

Group = TypeVar("Group", bound=Hashable)


def require_files(manifest: Manifest) -> None:
    """Stop where files of the cohort are not below its root, before a split is written that no training can use.

    Args:
        manifest: The cohort; only whether its files exist is looked at.

    Raises:
        ManifestError: How many are missing, the first of them, and whether they are below another root.
    """
    cells = pd.concat([manifest.table[role].dropna() for role in manifest.roles] or [pd.Series(dtype="string")])
    missing = [cell for cell in cells if not (manifest.root / cell).exists()]
    if not missing:
        return
    folder = manifest.file.parent
    if manifest.needs_data_root and all((folder / cell).exists() for cell in cells):
        way_out = f"They are all below {folder}, the CSV's own folder: leave --data-root out."
    elif manifest.needs_data_root:
        way_out = (
            "Name the folder that the paths start from with --data-root, or leave it out if that is the CSV's own."
        )
    else:
        way_out = "Where the paths do not start from the CSV's own folder, name the one they start from: --data-root."
    raise ManifestError(
        f"{len(missing)} of {len(cells)} files of {manifest.file} are not below {manifest.root} (first: {missing[0]}). "
        f"{way_out}"
    )


def split_folds(manifest: Manifest, *, num_folds: int, seed: int, stratify: str | None = None) -> Manifest:
    """Number the patients' folds for cross-validation.

    Patients whose split is ``test`` stay held out: they get no fold.

    Args:
        manifest: The cohort.
        num_folds: Number of folds, at least 2 and at most the number of patients.
        seed: Seed of the assignment.
        stratify: Column whose values every fold should hold in equal shares; a patient counts with the value that most
            of its cases have.

    Returns:
        The cohort with column ``fold`` (0 to ``num_folds - 1``) set; all other columns are unchanged.

    Raises:
        ManifestError: Not enough patients, or ``stratify`` is not a column.
    """
    table = manifest.table
    held_out = set(table.loc[table["split"] == "test", "patient_id"]) if "split" in table else set()
    patients = _ordered_patients(manifest, seed=seed, stratify=stratify, leave_out=held_out)
    if not 2 <= num_folds <= len(patients):
        raise ManifestError(
            f"{num_folds} folds cannot be made of the {len(patients)} patients of {manifest.file}"
            f"{f' that are not held out as test ({len(held_out)} are)' if held_out else ''}. The number of folds is "
            "at least 2 and at most the number of patients: choose another number, or add patients."
        )
    sizes = {fold: len(patients[fold::num_folds]) for fold in range(num_folds)}
    fold_of = dict(zip(patients, _spread(sizes), strict=True))
    return replace(manifest, table=with_column(table, "fold", table["patient_id"].map(fold_of).tolist()))


def split_fractions(
    manifest: Manifest, *, fractions: Mapping[str, float], seed: int, stratify: str | None = None
) -> Manifest:
    """Assign the patients to train, val and test in given shares.

    Args:
        manifest: The cohort.
        fractions: Share of the patients per split, such as ``{"train": 0.8, "val": 0.1, "test": 0.1}``; the sum is 1.
        seed: Seed of the assignment.
        stratify: Column whose values every split should hold in equal shares; a patient counts with the value that
            most of its cases have.

    Returns:
        The cohort with column ``split`` set; all other columns are unchanged.

    Raises:
        ManifestError: Shares that do not fit, a share that gets no patient, or ``stratify`` is not a column.
    """
    if unknown := sorted(set(fractions) - set(SPLITS)):
        raise ManifestError(f"Fraction of {unknown[0]!r}: splits are train, val and test. Rename or remove it.")
    shares = {name: float(fractions.get(name, 0.0)) for name in SPLITS}
    if not all(0 <= share <= 1 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ManifestError(
            f"Fractions {_words(shares)} have the sum {sum(shares.values()):g}. Each lies in 0 to 1 and the sum is 1: "
            "correct them, for example 0.8,0.1,0.1."
        )
    if "fold" in manifest.table and manifest.table["fold"].isna().any():
        raise ManifestError(
            f"{manifest.file} has folds that leave out its test patients, so a new split would contradict them. "
            "Remove the column 'fold', split, then make folds again."
        )
    patients = _ordered_patients(manifest, seed=seed, stratify=stratify)
    sizes = _sizes(shares, len(patients))
    if empty := [name for name in SPLITS if shares[name] > 0 and sizes[name] == 0]:
        raise ManifestError(
            f"Split {empty[0]!r} gets none of the {len(patients)} patients of {manifest.file} with fractions "
            f"{_words(shares)}. One patient is a share of {1 / len(patients):.3g}: raise the fraction to that, set it "
            "to 0, add patients, or use cross-validation folds."
        )
    split_of = dict(zip(patients, _spread(sizes), strict=True))
    return replace(
        manifest, table=with_column(manifest.table, "split", manifest.table["patient_id"].map(split_of).tolist())
    )


def _ordered_patients(
    manifest: Manifest, *, seed: int, stratify: str | None, leave_out: set[str] | None = None
) -> list[str]:
    """Patients in the order in which they are dealt out: stratum by stratum, shuffled by hash within each."""
    stratum = _stratum_of_patients(manifest, stratify)

    def place(patient: str) -> tuple[str, bytes, str]:
        return stratum[patient], hashlib.sha256(f"{seed}:{patient}".encode()).digest(), patient

    return sorted(manifest.patients - (leave_out or set()), key=place)


def _stratum_of_patients(manifest: Manifest, stratify: str | None) -> dict[str, str]:
    if stratify is None:
        return dict.fromkeys(manifest.patients, "")
    columns = [column for column in manifest.table.columns if column not in ID_COLUMNS]
    if stratify not in columns:
        raise ManifestError(
            f"Column {stratify!r} to stratify by is not in {manifest.file}, which has {', '.join(columns)}. "
            "Name one of these."
        )
    values = pd.DataFrame(
        {
            "patient": manifest.table["patient_id"].astype(object),
            "value": manifest.table[stratify].astype("string").fillna("").astype(object),
        }
    )
    counts = values.groupby(["patient", "value"], sort=True).size().rename("count").reset_index()
    # Of equally frequent values the first in alphabetical order wins: the order of rows must not matter.
    ranked = counts.sort_values(["patient", "count", "value"], ascending=[True, False, True])
    majority = ranked.drop_duplicates("patient")
    return dict(zip(majority["patient"], majority["value"], strict=True))


def _sizes(shares: Mapping[str, float], num_patients: int) -> dict[str, int]:
    """Whole numbers with sum ``num_patients`` nearest to the shares (largest remainder)."""
    exact = np.array([share * num_patients for share in shares.values()])
    sizes = np.floor(exact + 1e-9).astype(int)
    by_remainder = np.argsort(-(exact - sizes).round(9), kind="stable")
    sizes[by_remainder[: num_patients - sizes.sum()]] += 1
    return dict(zip(shares, sizes.tolist(), strict=True))


def _spread(sizes: Mapping[Group, int]) -> list[Group]:
    """Every group as often as its size says, spread evenly, so that any stretch holds about equal shares."""
    places = [
        ((turn + 0.5) / size, rank, group) for rank, (group, size) in enumerate(sizes.items()) for turn in range(size)
    ]
    return [group for _, _, group in sorted(places, key=lambda place: place[:2])]


def _words(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:g}" for name, share in shares.items())

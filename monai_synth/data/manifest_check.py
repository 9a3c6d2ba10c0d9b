"""Look into every file that a manifest names, and list all that would spoil a training or a metric.

Voxel axes are called x, y, z in the order of the file's array; world coordinates are RAS in mm; CT is in HU.
"""

import functools
import itertools
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monai_synth.data.grids import Grid, covers_same_box, grid_difference
from monai_synth.data.image_files import Problem, RefusedError, Severity, read_image
from monai_synth.data.manifest import MAX_LISTED, Manifest
from monai_synth.errors import ManifestError

MIN_BELOW_HU, MAX_ABOVE_HU = -200, 100  # air and bone: no field of view of a patient lacks both sides
DEFAULT_UNITS = {"ct": "HU"}
LABEL_ROLE = re.compile(r"(masks?|labels?|seg|segmentation)(_.*)?|(.*_)?(masks?|labels?|seg|segmentation|body)")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one file, or with one case (``role`` is then empty)."""

    case_id: str
    patient_id: str
    role: str
    rule: str
    message: str
    way_out: str
    severity: Severity = "error"


def check_manifest(
    manifest: Manifest,
    *,
    units: Mapping[str, str] | None = None,
    deep: bool = True,
    num_workers: int = 0,
) -> list[Finding]:
    """Check every file of every case; a broken file never stops the others.

    Args:
        manifest: The cohort.
        units: Role -> unit; roles in ``HU`` must look like CT. ``mask`` stands for whole numbers of which some
            are above 0. Adds to (or changes) the default, ``ct`` in HU.
        deep: Read every image. ``False`` only looks whether the files exist, lie below the root and are used once.
        num_workers: Threads that read at the same time; 0 reads in this one.

    Returns:
        All findings, in the order of cases and roles; findings about files used twice come last.

    Raises:
        ManifestError: ``units`` names a role that the manifest does not have.
    """
    if unknown := sorted(set(units or {}) - set(manifest.roles)):
        raise ManifestError(
            f"Unit of {unknown[0]!r}: {manifest.file} has the roles {', '.join(manifest.roles)}. Name one of these."
        )
    unit_of = DEFAULT_UNITS | dict(units or {})
    root = os.path.realpath(manifest.root)
    columns = [manifest.table[name].tolist() for name in ("patient_id", "case_id")]
    cells = zip(*(manifest.table[role].fillna("").tolist() for role in manifest.roles), strict=True)
    cases = [
        (patient, case, {role: cell for role, cell in zip(manifest.roles, row, strict=True) if cell})
        for patient, case, row in zip(*columns, cells if manifest.roles else [()] * len(manifest), strict=True)
    ]

    # Remembered during this call: thousands of files may be missing from one folder.
    names = functools.lru_cache(maxsize=64)(lambda there: sorted(os.listdir(there)))

    def check(case: tuple[str, str, dict[str, str]]) -> tuple[list[Finding], dict[str, str]]:
        patient_id, case_id, paths = case
        problems, real = _check_case(manifest.root, root, paths, units=unit_of, deep=deep, names=names)
        return [Finding(case_id, patient_id, role, *problem) for role, problem in problems], real

    if num_workers > 0:
        with ThreadPoolExecutor(num_workers) as pool:
            results = list(pool.map(check, cases))
    else:
        results = [check(case) for case in cases]
    users: dict[str, list[tuple[str, str, str]]] = {}
    for (patient_id, case_id, _), (_, real) in zip(cases, results, strict=True):
        for role, path in real.items():
            users.setdefault(path, []).append((case_id, patient_id, role))
    return [finding for findings, _ in results for finding in findings] + list(_find_shared(users))


def require_sound_manifest(
    manifest: Manifest, roles: Mapping[str, str | Sequence[str]], *, units: Mapping[str, str] | None = None
) -> None:
    """Stop before anything is trained or measured on files that are broken or do not fit each other.

    Args:
        manifest: the cases about to be used.
        roles: key -> column or columns, as for ``Manifest.cases``; other columns are not looked at. What ``mask`` names
            must hold whole numbers, some above 0, whatever the column is called.
        units: as for :func:`check_manifest`.

    Raises:
        ManifestError: with all findings that are errors.
    """
    columns = {name for value in roles.values() for name in ([value] if isinstance(value, str) else value)}
    manifest.require_roles(sorted(columns))
    unused = [role for role in manifest.roles if role not in columns]
    used = replace(manifest, table=manifest.table.drop(columns=unused))
    mask = roles.get("mask", ())
    masks = dict.fromkeys([mask] if isinstance(mask, str) else mask, "mask")
    findings = check_manifest(used, units=masks | dict(units or {}), num_workers=2)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ManifestError(
            f"{manifest.file} names images that cannot be used:\n\n{format_findings(errors)}\n\n"
            "Mend them or take these cases out (--check false goes on all the same)."
        )


def format_findings(findings: Sequence[Finding], *, width: int = 120) -> str:
    """Findings as one plain-text table; long texts wrap, nothing is cut off."""
    if not findings:
        return "No findings."
    header = ("severity", "case", "role", "rule", "what is wrong", "way out")
    rows = [(f.severity, f.case_id, f.role, f.rule, f.message, f.way_out) for f in findings]
    sizes = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    left = max(width - sum(sizes) - 2 * 5, 50)
    sizes += [left * 3 // 5, left - left * 3 // 5]
    lines: list[str] = []
    for row in [header, tuple("-" * size for size in sizes), *rows]:
        cells = zip(row, sizes, strict=True)
        wrapped = [textwrap.wrap(cell, size, break_long_words=False, break_on_hyphens=False) for cell, size in cells]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            lines.append("  ".join(part.ljust(size) for part, size in zip(parts, sizes, strict=True)).rstrip())
    num_errors = sum(finding.severity == "error" for finding in findings)
    num_cases = len({finding.case_id for finding in findings})
    lines += ["", f"{num_errors} error(s) and {len(findings) - num_errors} warning(s) in {num_cases} case(s)."]
    return "\n".join(lines)


def _check_case(
    folder: Path,
    root: str,
    paths: Mapping[str, str],
    *,
    units: Mapping[str, str],
    deep: bool,
    names: Callable[[Path], list[str]],
) -> tuple[list[tuple[str, Problem]], dict[str, str]]:
    """Problems per role of one case, and the real path of every file that is there."""
    found: list[tuple[str, Problem]] = []
    real: dict[str, str] = {}
    grids: dict[str, Grid] = {}
    if not paths:
        found.append(("", Problem("has files", "no role has a path", "fill a cell, or remove the row")))
    for role, cell in paths.items():
        problems: list[Problem] = []
        try:
            resolved = os.path.realpath(folder / cell)
            if not resolved.startswith(root.rstrip(os.sep) + os.sep):
                way_out = "copy the file below the root, or pass a data_root that contains it"
                problems.append(Problem("inside root", f"{cell} leads to {resolved}, outside {root}", way_out))
            elif not os.path.exists(resolved):
                way_out = "correct the path or data_root, or restore the file"
                if not re.search(r"[/.]", cell):
                    way_out += f"; if {role!r} holds no paths, rename the column to 'meta_{role}'"
                problems.append(Problem("exists", _absence(folder, cell, names), way_out))
            else:
                real[role] = resolved
                if deep:
                    data, grids[role], problems = read_image(folder / cell)
                    problems += _check_values(data, role, units.get(role, ""))
                    if cell.lower().endswith((".jpg", ".jpeg")) and _is_label_map(role, units.get(role, "")):
                        message = f"{cell} is a JPEG, whose edges hold numbers between the labels"
                        way_out = "save the labels as PNG, from the source"
                        problems.append(Problem("lossless", message, way_out, "warning"))
        except RefusedError as refused:
            problems.append(refused.problem)
        except Exception as error:  # readers raise anything on damaged files; each becomes a finding of its own
            reason = " ".join(str(error).split()) or "no reason given"
            message = f"{cell} cannot be read to its end ({type(error).__name__}: {reason})"
            problems.append(Problem("readable", message, "copy or export the file again"))
        found += [(role, problem) for problem in problems]
    reference = next(iter(grids), "")
    for role, grid in itertools.islice(grids.items(), 1, None):
        if words := grid_difference(grids[reference], grid, reference):
            covers_same = covers_same_box(grids[reference], grid)
            way_out = f"find out which header is right; if both are, resample onto the grid of {reference!r}"
            if covers_same:
                way_out = "store both in one orientation"
            found.append((role, Problem("same grid", "; ".join(words), way_out)))
    return found, real


def _absence(there: Path, cell: str, list_folder: Callable[[Path], list[str]]) -> str:
    """Say that a file is missing, and what there is instead."""
    for part in Path(cell).parts[:-1]:
        if not (there / part).is_dir():
            break
        there = there / part
    names = list_folder(there)
    listed = ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if names[MAX_LISTED:] else "")
    return f"{cell} does not exist; {there} holds {listed or 'nothing'}"


def _find_shared(users: Mapping[str, list[tuple[str, str, str]]]) -> Iterator[Finding]:
    for path, uses in users.items():
        if len(uses) == 1:
            continue
        case_id, patient_id, role = uses[-1]
        places = ", ".join(f"{case} ({name})" for case, _, name in uses[:MAX_LISTED])
        rest = f" and {len(uses) - MAX_LISTED} more" if uses[MAX_LISTED:] else ""
        is_leak = len({patient for _, patient, _ in uses}) > 1
        message = f"{path} is used {len(uses)} times{', by several patients' if is_leak else ''}: {places}{rest}"
        way_out = "give every case its own file" if is_leak else "correct one path, unless this is meant"
        severity: Severity = "error" if len({case for case, _, _ in uses}) > 1 else "warning"
        yield Finding(case_id, patient_id, role, "used once", message, way_out, severity)


def _is_label_map(role: str, unit: str) -> bool:
    return unit == "mask" or LABEL_ROLE.fullmatch(role) is not None


def _check_values(data: np.ndarray, role: str, unit: str) -> Iterator[Problem]:
    if data.dtype.kind not in "biuf":
        yield Problem("values", f"voxels are {data.dtype}, not single numbers", "convert to one number per voxel")
        return
    if data.size == 0:
        yield Problem("values", f"the image has no voxels (shape {data.shape})", "export it again")
        return
    if data.dtype.kind == "f" and not (is_finite := np.isfinite(data)).all():
        num_nan = int(np.isnan(data).sum())
        message = f"{int((~is_finite).sum())} of {data.size} voxels are not finite ({num_nan} NaN)"
        yield Problem("finite", message, "find out where they come from; replace them by the background's value")
        data = data[is_finite]
        if data.size == 0:
            return
    low, high = data.min(), data.max()
    if _is_label_map(role, unit):
        is_mask = unit == "mask" or re.search("mask|body", role) is not None
        yield from _check_labels(data, float(low), float(high), is_mask=is_mask)
    elif low == high:
        yield Problem("not constant", f"every voxel is {low:g}", "export it again, or remove the case")
    elif unit == "HU":
        yield from _check_hu(float(low), float(high))


def _check_labels(data: np.ndarray, low: float, high: float, *, is_mask: bool) -> Iterator[Problem]:
    if data.ndim > 3:
        is_grey = bool((data[..., :3] == data[..., :1]).all())
        message = f"a colour picture ({data.shape[-1]} channels), not one label per voxel"
        if is_grey:
            message = f"one label per voxel, but stored {data.shape[-1]} times, as a colour picture"
        way_out = "save the labels as whole numbers in one channel"
        yield Problem("one channel", message, way_out, "warning" if is_grey else "error")
    if data.dtype.kind == "f" and (fractional := np.abs(data - np.rint(data)) > 1e-3).any():
        message = f"{int(fractional.sum())} voxels are not whole numbers (first: {data[fractional].flat[0]:g})"
        yield Problem("whole numbers", message, "resample labels with nearest neighbour")
    if low < 0:
        yield Problem("labels from 0", f"the lowest label is {low:g}", "number the labels from 0 (background)")
    if high <= 0:
        way_out = "draw it again, or leave the cell empty"
        severity: Severity = "error" if is_mask else "warning"
        yield Problem("not empty", "no voxel is above 0", way_out, severity)


def _check_hu(low: float, high: float) -> Iterator[Problem]:
    found = f"values from {low:g} to {high:g}"
    if low >= 0 and high <= 255:
        yield Problem("HU", f"{found}: looks like 8-bit grey values, not HU", "convert the CT from DICOM again")
    elif low >= -1.5 and high <= 1.5:
        yield Problem("HU", f"{found}: looks scaled to a network's range, not HU", "convert the CT from DICOM again")
    elif low >= 0:
        message = f"{found}: all positive, looks like stored values without the rescale intercept, not HU"
        yield Problem("HU", message, "apply rescale slope and intercept (often -1024)")
    else:
        if low > MIN_BELOW_HU:
            message = f"{found}: the lowest is above {MIN_BELOW_HU} HU, so there is no air or it was clipped"
            yield Problem("HU", message, "use the unclipped CT, unless the piece really has none", "warning")
        if high < MAX_ABOVE_HU:
            message = f"{found}: the highest is below {MAX_ABOVE_HU} HU, so there is no bone or it was clipped"
            yield Problem("HU", message, "use the unclipped CT, unless the piece really has none", "warning")

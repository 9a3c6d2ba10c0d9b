"""Tables of numbers: methods x metrics from ``summary.csv``, and all cases of the model from ``cases.csv``."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from monai_synth.reports.quantities import Estimate, estimates, method_label, number, quantity, with_unit
from monai_synth.reports.run_folder import CASE_TEXT, MODEL
from monai_synth.reports.verdict import KEY_METRIC

NOT_METRICS = (*CASE_TEXT, "fold")


class Footnotes:
    """Reasons collected while a table is written; equal reasons share a letter."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """Letter of a reason: ``a``, ``b``, ..."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return chr(ord("a") + self.reasons.index(reason) % 26)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(letter, reason) in the order of appearance."""
        return [(self.mark(reason), reason) for reason in self.reasons]


@dataclass(frozen=True)
class Cell:
    """A value, the line below it and the letter of its footnote."""

    value: str
    below: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Header (label, unit, direction), rows (name, cells, whether it is the model's) and footnotes."""

    header: list[tuple[str, str, str]]
    rows: list[tuple[str, list[Cell], bool]]
    footnotes: list[tuple[str, str]]


def results_table(summary: pd.DataFrame) -> Table:
    """Mean and 95 % interval of each metric; the model first, then the baselines by masked MAE."""
    found, notes = estimates(summary), Footnotes()
    metrics = [name for name in dict.fromkeys(metric for _, metric in found) if not _is_replaced(name, found)]
    methods = sorted(dict.fromkeys(method for method, _ in found), key=lambda name: _rank(name, found))
    header = [("n", "patients", "")]
    for metric in metrics:
        what = quantity(metric, unit=next(entry.unit for key, entry in found.items() if key[1] == metric))
        header.append((what.label, what.unit, what.better))
    rows = []
    for method in methods:
        entries = [found.get((method, metric)) for metric in metrics]
        most = max(entry.num_patients for entry in entries if entry is not None)
        cells = [Cell(str(most)), *(_estimate_cell(entry, most, notes) for entry in entries)]
        rows.append((method_label(method), cells, method == MODEL))
    return Table(header, rows, notes.lines)


def cases_table(cases: pd.DataFrame, *, baseline: str | None, limit: int) -> Table:
    """Every case of the model, worst first, beside the MAE of the best baseline; at most ``limit`` rows."""
    model, notes = worst_first(cases), Footnotes()
    metrics = [name for name in metric_columns(cases) if name != "ssim" or cases[name].notna().any()]
    header = [(what.label, what.unit, what.better) for what in map(quantity, metrics)]
    other: dict[Any, float] = {}
    if baseline is not None and KEY_METRIC in cases:
        others = cases[cases["method"] == baseline]
        other = dict(zip(others["case_id"], others[KEY_METRIC], strict=True))
        header.append(("MAE baseline", "HU", "lower"))
    rows = []
    for row in model.head(limit).to_dict("records"):
        cells = [_value_cell(row[metric], metric, notes) for metric in metrics]
        if other:
            cells.append(_value_cell(other.get(row["case_id"], math.nan), KEY_METRIC, notes))
        rows.append((row["case_id"], cells, False))
    return Table(header, rows, notes.lines)


def worst_first(cases: pd.DataFrame) -> pd.DataFrame:
    """The model's cases by falling masked MAE; cases without a value last."""
    rows = cases[cases["method"] == MODEL]
    if KEY_METRIC not in rows:
        return rows
    return rows.sort_values(KEY_METRIC, ascending=False, na_position="last", kind="stable")


def metric_columns(cases: pd.DataFrame) -> list[str]:
    """Columns of ``cases.csv`` that hold metrics."""
    return [name for name in cases.columns if name not in NOT_METRICS and is_numeric_dtype(cases[name])]


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries with text keys."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def case_numbers(row: dict[str, Any]) -> str:
    """The numbers of one case: ``MAE 61.2 HU, ME -3.0 HU, ...``."""
    parts = []
    for name in (name for name, value in row.items() if name not in NOT_METRICS and isinstance(value, float)):
        if name == "ssim" and "ssim_2d" in row and math.isnan(row[name]):
            continue
        what = quantity(name)
        reason = f" ({what.no_value})" if math.isnan(row[name]) else ""
        parts.append(f"{what.label} {with_unit(row[name], name)}{reason}")
    return ", ".join(parts)


def _is_replaced(metric: str, found: dict[tuple[str, str], Estimate]) -> bool:
    """Whether every case is a single slice, so that the SSIM of volumes has no value and ``ssim_2d`` stands for it."""
    values = [entry.mean for (_, name), entry in found.items() if name == metric]
    return metric == "ssim" and all(map(math.isnan, values)) and any(name == "ssim_2d" for _, name in found)


def _rank(method: str, found: dict[tuple[str, str], Estimate]) -> tuple[bool, float]:
    entry = found.get((method, KEY_METRIC))
    mean = math.inf if entry is None or math.isnan(entry.mean) else entry.mean
    return method != MODEL, mean


def _estimate_cell(entry: Estimate | None, most: int, notes: Footnotes) -> Cell:
    if entry is None:
        return Cell("\N{EN DASH}", note=notes.mark("not in evaluation/summary.csv for this method"))
    if math.isnan(entry.mean):
        return _value_cell(entry.mean, entry.metric, notes)
    what, below, letters = quantity(entry.metric), entry.interval_text, ""
    if not entry.has_interval:
        letters += notes.mark(entry.no_interval)
    if entry.num_patients != most:
        below += f" (n = {entry.num_patients})"
        letters += notes.mark(f"{what.label}: patients without a value are left out ({what.no_value})")
    return Cell(number(entry.mean, what.decimals), below, letters)


def _value_cell(value: float, metric: str, notes: Footnotes) -> Cell:
    what = quantity(metric)
    if math.isnan(value):
        return Cell("\N{EN DASH}", note=notes.mark(f"{what.label}: {what.no_value}"))
    return Cell(number(value, what.decimals))

"""Tables of numbers: methods x metrics from ``summary.csv``, and all cases of the model from ``cases.csv``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from monai_synth.reports.quantities import Estimate, estimates, method_label, number, quantity, with_unit
from monai_synth.reports.run_folder import ERRORS, MODEL, NOT_METRICS, metric_columns


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


def results_table(summary: pd.DataFrame, *, key_metric: str = ERRORS[0]) -> Table:
    """Mean and 95 % interval of each metric; the model first, then the baselines, best first by ``key_metric``."""
    found, notes = estimates(summary), Footnotes()
    metrics = [name for name in dict.fromkeys(metric for _, metric in found) if not _is_replaced(name, found)]
    methods = sorted(dict.fromkeys(method for method, _ in found), key=lambda name: _rank(name, key_metric, found))
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


def cases_table(
    cases: pd.DataFrame,
    *,
    baseline: str | None,
    limit: int,
    metric: str | None = ERRORS[0],
    units: Mapping[str, str] | None = None,
) -> Table:
    """Every case of the model, worst first by ``metric``, beside that of the best baseline; at most ``limit`` rows."""
    model, notes, units = worst_first(cases, metric), Footnotes(), units or {}
    metrics = [name for name in metric_columns(cases) if name != "ssim" or cases[name].notna().any()]
    described = {name: quantity(name, unit=units.get(name, "")) for name in metrics}
    header = [(what.label, what.unit, what.better) for what in described.values()]
    other: dict[Any, float] = {}
    if baseline is not None and metric in described:
        others = cases[cases["method"] == baseline]
        other = dict(zip(others["case_id"], others[metric], strict=True))
        what = described[metric]
        header.append((f"{what.label} baseline", what.unit, what.better))
    rows = []
    for row in model.head(limit).to_dict("records"):
        cells = [_value_cell(row[name], name, notes) for name in metrics]
        if other and metric is not None:
            cells.append(_value_cell(other.get(row["case_id"], math.nan), metric, notes))
        rows.append((row["case_id"], cells, False))
    return Table(header, rows, notes.lines)


def worst_first(cases: pd.DataFrame, metric: str | None = ERRORS[0]) -> pd.DataFrame:
    """The model's cases, worst first by ``metric``; cases without a value last."""
    rows = cases[cases["method"] == MODEL]
    if metric is None or metric not in rows:
        return rows
    is_score = quantity(metric).better == "higher"
    return rows.sort_values(metric, ascending=is_score, na_position="last", kind="stable")


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries with text keys."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def case_numbers(row: dict[str, Any], units: Mapping[str, str] | None = None) -> str:
    """The numbers of one case: ``MAE 61.2 HU, ME -3.0 HU, ...``; ``units`` of metrics that do not carry their own."""
    parts, units = [], units or {}
    for name in (name for name, value in row.items() if name not in NOT_METRICS and isinstance(value, float)):
        if name == "ssim" and "ssim_2d" in row and math.isnan(row[name]):
            continue
        what = quantity(name)
        reason = f" ({what.no_value})" if math.isnan(row[name]) else ""
        parts.append(f"{what.label} {with_unit(row[name], name, unit=units.get(name, ''))}{reason}")
    return ", ".join(parts)


def _is_replaced(metric: str, found: dict[tuple[str, str], Estimate]) -> bool:
    """Whether every case is a single slice, so that the SSIM of volumes has no value and ``ssim_2d`` stands for it."""
    values = [entry.mean for (_, name), entry in found.items() if name == metric]
    return metric == "ssim" and all(map(math.isnan, values)) and any(name == "ssim_2d" for _, name in found)


def _rank(method: str, metric: str, found: dict[tuple[str, str], Estimate]) -> tuple[bool, float]:
    entry = found.get((method, metric))
    mean = math.inf if entry is None or math.isnan(entry.mean) else entry.mean
    return method != MODEL, -mean if quantity(metric).better == "higher" and math.isfinite(mean) else mean


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

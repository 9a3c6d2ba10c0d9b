"""Learning curves and the per-case plot of masked MAE, drawn with matplotlib's Agg and returned as data URIs."""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_numeric_dtype

from monai_synth.reports.quantities import method_label, quantity

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
COLOURS = ("#1f5f8b", "#c8553d", "#588157", "#8d6a9f", "#b08900", "#4f6d7a")
BASELINE_COLOUR = "#7b8794"
MIN_BOX_CASES = 5
NOT_A_LOSS = ("epoch", "seconds", "lr")


def learning_curves(
    history: pd.DataFrame,
    *,
    key: str = "val_mae_hu",
    best_epoch: int | None = None,
    units: Mapping[str, str] | None = None,
) -> str | None:
    """Losses of both players and the validation metric by epoch.

    Args:
        history: one row per epoch: ``epoch``, loss columns, ``val_*`` columns (NaN where not validated).
        key: validation column to draw.
        best_epoch: epoch of the checkpoint, drawn as a vertical line.
        units: of metrics that do not carry their own.

    Returns:
        Data URI, or ``None`` when there is nothing to draw.
    """
    losses = [name for name in history.columns if name not in NOT_A_LOSS and not name.startswith("val_")]
    losses = [name for name in losses if is_numeric_dtype(history[name]) and history[name].notna().any()]
    groups = [
        ("Discriminator losses", [name for name in losses if name.startswith("d_")]),
        ("Generator losses", [name for name in losses if name.startswith("g_")]),
        ("Further columns", [name for name in losses if not name.startswith(("d_", "g_"))]),
    ]
    validation = [name for name in history.columns if name.startswith("val_") and history[name].notna().any()]
    if key not in validation and validation:
        key = validation[0]
    what = quantity(key.removeprefix("val_"), unit=(units or {}).get(key.removeprefix("val_"), ""))
    unit = f" / {what.unit}" if what.unit not in ("", "1") else ""
    groups = [*groups, (f"Validation {what.label}{unit}", [key] if validation else [])]
    groups = [group for group in groups if group[1]]
    if not groups:
        return None
    figure = _figure(3.35 * len(groups), 2.5)
    for position, (title, names) in enumerate(groups):
        axes = figure.add_subplot(1, len(groups), position + 1)
        for order, name in enumerate(names):
            rows = history[["epoch", name]].dropna()
            is_sparse = name.startswith("val_") or len(rows) < 3
            axes.plot(
                rows["epoch"],
                rows[name],
                color=COLOURS[order % len(COLOURS)],
                lw=1.3,
                label=name,
                marker="o" if is_sparse else "",
                ms=3,
            )
        if best_epoch is not None:
            axes.axvline(best_epoch, color=MUTED, lw=0.8, ls=(0, (4, 3)))
            if title.startswith("Validation"):
                axes.annotate(f"epoch {best_epoch}", (best_epoch, 1), xycoords=("data", "axes fraction"),
                              xytext=(-3, -3), textcoords="offset points", ha="right", va="top",
                              fontsize=7, color=MUTED)  # fmt: skip
        if len(names) > 1 or not title.startswith("Validation"):
            for text in axes.legend(frameon=False, fontsize=7, labelcolor=INK, loc="best").get_texts():
                text.set_parse_math(False)
        axes.set_title(title, fontsize=8.5, color=INK, loc="left")
        axes.set_xlabel("epoch", fontsize=8, color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        _calm(axes)
    return _data_uri(figure)


def case_plot(
    values: Mapping[str, Sequence[float]], *, metric: str = "mae_hu", axis: str = "masked MAE", unit: str = ""
) -> str | None:
    """Box and points per method, one point per case.

    Args:
        values: per method the metric of each case; NaN is left out.
        metric: what the values are.
        axis: what the axis calls it.
        unit: of a metric that does not carry its own.

    Returns:
        Data URI, or ``None`` when no value is finite.
    """
    finite = {name: np.array([v for v in column if math.isfinite(v)]) for name, column in values.items()}
    finite = {name: column for name, column in finite.items() if column.size}
    if not finite:
        return None
    figure = _figure(8.6, 0.75 + 0.5 * len(finite))
    axes = figure.add_subplot()
    random = np.random.default_rng(0)
    for row, (name, column) in enumerate(finite.items()):
        colour = COLOURS[0] if row == 0 and name == "model" else BASELINE_COLOUR
        if column.size >= MIN_BOX_CASES:
            first, median, third = np.percentile(column, (25, 50, 75))
            axes.hlines([row, row], [column.min(), third], [first, column.max()], color=colour, lw=1.0)
            axes.vlines([column.min(), column.max()], row - 0.14, row + 0.14, color=colour, lw=1.0)
            axes.barh(row, third - first, left=first, height=0.56, facecolor="none", edgecolor=colour, lw=1.0)
            axes.vlines(median, row - 0.28, row + 0.28, color=colour, lw=2.0)
        jitter = random.uniform(-0.16, 0.16, column.size) if column.size > 1 else np.zeros(1)
        axes.scatter(column, row + jitter, s=15, color=colour, alpha=0.75, linewidths=0, zorder=3)
    axes.set_yticks(
        range(len(finite)), [f"{method_label(name)}  (n = {column.size})" for name, column in finite.items()]
    )
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(finite) - 0.5, -0.5)
    what = quantity(metric, unit=unit)
    if what.better == "lower":
        axes.set_xlim(left=0)
    unit = f" / {what.unit}" if what.unit not in ("", "1") else ""
    axes.set_xlabel(f"{axis} per case{unit}", fontsize=8, color=MUTED)
    _calm(axes)
    return _data_uri(figure)


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _calm(axes: Axes) -> None:
    axes.grid(True, color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa5b1")
    axes.tick_params(labelsize=7.5, colors=MUTED, labelcolor=INK, length=3)


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

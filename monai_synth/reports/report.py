"""Write the report of a run: one HTML file that needs nothing else."""

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from monai_synth.errors import ConfigError
from monai_synth.reports import case_pictures, charts, panels, provenance, results, verdict
from monai_synth.reports.case_pictures import DISPLAY_HU, CasePictures, Display
from monai_synth.reports.quantities import MINUS, estimates, name_of, quantity
from monai_synth.reports.run_folder import MODEL, REAL_IMAGES, RunFolder, read_run
from monai_synth.reports.views import MARGIN_MM

MAX_CASES = 12
NUM_WORST_SLICES = 3
MAX_TABLE_ROWS = 100


def write_report(
    run_dir: Path,
    out: Path | None = None,
    *,
    window_hu: tuple[float, float] = DISPLAY_HU,
    max_cases: int = MAX_CASES,
) -> Path:
    """Write the report of a run.

    Args:
        run_dir: folder of a run (``output_dir`` of a training).
        out: HTML file to write; ``None`` writes ``report.html`` into the run's folder.
        window_hu: grey window of target and prediction.
        max_cases: number of cases with pictures, worst first.

    Returns:
        The file written.

    Raises:
        ConfigError: when the folder is not a run, a file in it is damaged or the window is empty.
    """
    if not window_hu[0] < window_hu[1]:
        raise ConfigError(f"window_hu is {window_hu}, but its first value must be below its second, e.g. {DISPLAY_HU}.")
    run = read_run(run_dir)
    target = run.path / "report.html" if out is None else Path(out)
    template = (
        resources.files("monai_synth.reports").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(**_content(run, window_hu=window_hu, max_cases=max_cases))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def _content(run: RunFolder, *, window_hu: tuple[float, float], max_cases: int) -> dict[str, Any]:
    found = estimates(run.summary)
    leading = run.key_metric if run.case_metric is None else run.case_metric
    baseline = verdict.best_baseline(found, leading)
    epoch = provenance.checkpoint_epoch(run)
    cases = run.cases if run.cases is not None and not run.cases.empty else None
    content: dict[str, Any] = {
        "name": str(run.run.get("name") or run.path.name),
        "folder": str(run.path),
        "verdict": verdict.judge(run),
        "missing": run.missing,
        "facts": provenance.provenance(run) if run.run else [],
        "curves": None
        if run.history is None
        else charts.learning_curves(run.history, key=f"val_{run.key_metric}", best_epoch=epoch, units=run.units),
        "has_history": run.history is not None,
        "epoch": epoch,
        "results": None
        if run.summary is None or run.summary.empty
        else results.results_table(run.summary, key_metric=run.key_metric),
        "baseline": None if baseline is None else baseline.method,
        "has_other_methods": any(method not in (MODEL, REAL_IMAGES) for method, _ in found),
        "is_scored": run.cases is None or bool(run.case_metrics),
        "has_signed_error": any(metric.startswith("me_") for _, metric in found),
        "error_name": None if run.case_metric is None else name_of(run.case_metric, run.evaluation),
        "split": str(run.evaluation.get("split") or "unknown"),
        "preset": provenance.scores_words(run.evaluation),
        "mask": provenance.mask_words(run.run.get("roles") or {}, run.evaluation),
        "bins": provenance.bins_words(run.evaluation.get("bins_hu")),
        "evaluate": run.evaluate_command,
        "plot": None,
        "table": None,
        "cases": [],
    }
    if cases is None:
        return content
    display = case_pictures.display_from(
        run.run.get("intensity"),
        window_hu=window_hu,
        is_paired=bool(run.case_metrics),
        is_masked=run.evaluation.get("scored_inside", "mask") is not None,
    )
    content |= {
        "plot": _plot(run, cases),
        "table": None
        if run.case_metric is None
        else results.cases_table(
            cases,
            baseline=None if baseline is None else baseline.method,
            limit=MAX_TABLE_ROWS,
            metric=run.case_metric,
            units=run.units,
        ),
        "num_table_rows": MAX_TABLE_ROWS,
        "table_order": _table_order(run),
        **_pictures(run, cases, display=display, max_cases=max_cases),
    }
    return content


def _plot(run: RunFolder, cases: Any) -> str | None:
    leading = run.case_metric
    if leading is None:
        return None
    found = estimates(run.summary)
    methods = list(dict.fromkeys(cases["method"]))
    order = {name: entry.mean for (name, metric), entry in found.items() if metric == leading}
    methods.sort(key=lambda name: (name != MODEL, order.get(name, float("inf"))))
    return charts.case_plot(
        {name: list(cases.loc[cases["method"] == name, leading]) for name in methods},
        metric=leading,
        axis=name_of(leading, run.evaluation),
        unit=run.units.get(leading, ""),
    )


def _pictures(run: RunFolder, cases: Any, *, display: Display, max_cases: int) -> dict[str, Any]:
    worst = results.worst_first(cases, run.case_metric)
    rows = results.rows_of(worst.head(max_cases))
    collected: list[CasePictures] = [
        case_pictures.collect(row, run_dir=run.path, display=display, has_worst_slice=rank < NUM_WORST_SLICES)
        for rank, row in enumerate(rows)
    ]
    limit = case_pictures.error_limit(collected)
    shown = []
    for row, pictures in zip(rows, collected, strict=True):
        views = [
            (cut.caption, case_pictures.draw(cut, pictures, display=display, limit=limit)) for cut in pictures.slices
        ]
        patient = row.get("patient_id", "")
        shown.append(
            {
                "id": row["case_id"],
                "patient": patient if patient != row["case_id"] else "",
                "numbers": results.case_numbers(row, run.units),
                "views": views,
                "notes": pictures.notes,
                "lost": pictures.reasons if not pictures.slices else {},
                "is_incomplete": any(role in pictures.reasons for role in ("target", "prediction")),
                "is_picture": pictures.is_picture,
            }
        )
    window = display.target_window
    return {
        "cases": shown,
        "num_cases": len(worst),
        "num_left_out": len(worst) - len(rows),
        "num_worst_slices": min(NUM_WORST_SLICES, len(rows)),
        "margin_mm": MARGIN_MM,
        "condition_window": _condition_words(display),
        "is_paired": display.is_paired,
        "is_masked": display.is_masked,
        "are_pictures": any(case["is_picture"] for case in shown),
        "order": _order_words(run, num_cases=len(worst), num_shown=len(rows)),
        "window": "percentile 1 to 99 of each target inside its mask"
        if window is None
        else f"{window[0]:.0f} to {window[1]:.0f} {display.unit}".replace("-", MINUS),
        "limit": f"{limit:.0f} {display.unit}",
        "grey_bar": panels.grey_bar(),
        "error_bar": panels.error_bar(),
    }


def _order_words(run: RunFolder, *, num_cases: int, num_shown: int) -> str:
    """Which cases are shown, and in which order."""
    if num_shown == num_cases:
        worst = ", worst first" if run.case_metric else ""
        return "The only case" if num_cases == 1 else f"All {num_cases} cases{worst}"
    left = f"{num_cases - num_shown} are left out"
    if run.case_metric is None:
        return f"The first {num_shown} of {num_cases} cases; {left}"
    side = "smallest" if quantity(run.case_metric).better == "higher" else "largest"
    name = name_of(run.case_metric, run.evaluation)
    return f"The {num_shown} cases with the {side} {name} of {num_cases}, worst first; {left}"


def _table_order(run: RunFolder) -> str:
    if run.case_metric is None:
        return "In the order of cases.csv"
    side = "rising" if quantity(run.case_metric).better == "higher" else "falling"
    return f"By {side} {name_of(run.case_metric, run.evaluation)}"


def _condition_words(display: Display) -> str:
    if display.is_condition_in_window:
        return "The condition has the grey window of the target."
    return "The condition is shown from percentile 1 to 99 inside the mask of each case."

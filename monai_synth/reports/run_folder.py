"""Read the folder of a training run (RUN_DIR); name what is missing and the command that makes it."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from monai_synth.errors import ConfigError

MODEL = "model"
# What real images score that are not in the reference of a distance between sets: no method, but the aim of all.
REAL_IMAGES = "real_images"
PATH_COLUMNS = ("condition", "target", "mask", "prediction")
CASE_TEXT = ("method", "patient_id", "case_id", "split", *PATH_COLUMNS)
SUMMARY_TEXT = ("method", "metric", "unit")
NOT_METRICS = (*CASE_TEXT, "fold")
ERRORS = ("mae_hu", "mae")  # in this order, the metric that leads where none is named
PARTS = ("run.json", "history.csv", "evaluation/cases.csv", "evaluation/summary.csv", "evaluation/evaluation.json")


@dataclass(frozen=True)
class Missing:
    """A part of a run that is not there, what the report lacks without it and the command that makes it."""

    file: str
    consequence: str
    command: str


@dataclass(frozen=True)
class RunFolder:
    """What a training and its evaluation left behind; ``None`` or empty where a file is missing."""

    path: Path
    run: dict[str, Any]
    checkpoint: dict[str, Any]
    evaluation: dict[str, Any]
    history: pd.DataFrame | None
    cases: pd.DataFrame | None
    summary: pd.DataFrame | None
    missing: tuple[Missing, ...]

    @property
    def key_metric(self) -> str:
        """The metric that decides: what the evaluation names, else what chose the checkpoint, else the error."""
        known = [*([] if self.summary is None else self.summary["metric"]), *self.case_metrics]
        if not known:
            return str(self.checkpoint.get("metric") or ERRORS[0])
        return str(next(name for name in (self.evaluation.get("key_metric"), *ERRORS, known[0]) if name in known))

    @property
    def case_metrics(self) -> list[str]:
        """Columns of ``cases.csv`` that hold metrics; none where there was no target to compare with."""
        return [] if self.cases is None else metric_columns(self.cases)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each metric in ``summary.csv``; errors are in the unit of the target, where that is recorded."""
        target = (self.run.get("intensity") or {}).get("target") or {}
        unit = str(target.get("unit") or "") if isinstance(target, dict) else ""
        known = {} if self.summary is None else dict(zip(self.summary["metric"], self.summary["unit"], strict=True))
        return {"mae": unit, "rmse": unit} | known

    @property
    def case_metric(self) -> str | None:
        """The metric by which cases are sorted: the one that decides, else the error, else the first."""
        metrics = self.case_metrics
        return next((name for name in (self.key_metric, *ERRORS) if name in metrics), next(iter(metrics), None))

    @property
    def evaluate_command(self) -> str:
        """Command that writes ``evaluation/`` of this run, for the folder of its bundle."""
        return evaluate_command(self.path, self.run.get("manifest"))


def metric_columns(cases: pd.DataFrame) -> list[str]:
    """Columns of ``cases.csv`` that hold metrics."""
    return [name for name in cases.columns if name not in NOT_METRICS and is_numeric_dtype(cases[name])]


def evaluate_command(run_dir: Path, manifest: dict[str, Any] | None = None) -> str:
    """Command that evaluates the run in ``run_dir``, for the folder of its bundle; ``manifest`` as in ``run.json``."""
    files = "\"['configs/train.json','configs/evaluate.json']\""
    return f"python -m monai.bundle run evaluating --config_file {files} {_where(run_dir, manifest)}"


def train_command(run_dir: Path, manifest: dict[str, Any] | None = None) -> str:
    """Command that trains into ``run_dir``, for the folder of a bundle; ``manifest`` as in ``run.json``."""
    return f"python -m monai.bundle run training --config_file configs/train.json {_where(run_dir, manifest)}"


def _where(run_dir: Path, manifest: dict[str, Any] | None) -> str:
    """Options that name the cohort, with the folder of its images where that is not the CSV's, and the run."""
    recorded = manifest or {}
    options = {
        "manifest": recorded.get("file") or "MANIFEST.csv",
        "dataset_dir": recorded.get("data_root"),
        "output_dir": run_dir.resolve(),
    }
    return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value)


def read_run(run_dir: Path) -> RunFolder:
    """Read a run's folder.

    Args:
        run_dir: ``output_dir`` of a training.

    Returns:
        Everything found, and what is missing.

    Raises:
        ConfigError: when the folder is not a run, or a file in it cannot be read.
    """
    path = Path(run_dir).expanduser().resolve()
    if not path.is_dir():
        raise ConfigError(
            f"{str(path)!r} is not a folder. A report needs the folder of a run (output_dir of a training); "
            f"make one with `{train_command(path)}`."
        )
    if not any((path / part).is_file() for part in PARTS):
        raise ConfigError(_no_run_message(path))
    missing = tuple(_missing(path))
    return RunFolder(
        path=path,
        run=_read_json(path / "run.json"),
        checkpoint=_read_json(path / "models" / "model.json"),
        evaluation=_read_json(path / "evaluation" / "evaluation.json"),
        history=_read_table(path / "history.csv", text=(), required=("epoch",)),
        cases=_read_table(path / "evaluation" / "cases.csv", text=CASE_TEXT, required=("method", "case_id")),
        summary=_read_table(
            path / "evaluation" / "summary.csv",
            text=SUMMARY_TEXT,
            required=(*SUMMARY_TEXT, "n", "mean", "ci_low", "ci_high"),
        ),
        missing=missing,
    )


def _no_run_message(path: Path) -> str:
    runs = sorted(child.name for child in path.iterdir() if (child / "run.json").is_file())
    if runs:
        shown = ", ".join(repr(name) for name in runs[:5]) + (", ..." if len(runs) > 5 else "")
        way_out = f"There are {len(runs)} run(s) below it: {shown}. Name one of them."
    else:
        way_out = f"Name the output_dir of a training, or make one with `{train_command(path)}`."
    return f"{str(path)!r} is no run: a run holds run.json, history.csv or evaluation/. {way_out}"


def _missing(path: Path) -> list[Missing]:
    manifest = _read_json(path / "run.json").get("manifest")
    train, evaluate = train_command(path, manifest), evaluate_command(path, manifest)
    candidates = (
        Missing("run.json", "what was trained on what is unknown", train),
        Missing("history.csv", "no learning curves", train),
        Missing("evaluation/summary.csv", "no results table and no verdict", evaluate),
        Missing("evaluation/cases.csv", "no pictures and no numbers per case", evaluate),
        Missing(
            "evaluation/evaluation.json", "split, preset and checkpoint epoch of the numbers are unknown", evaluate
        ),
    )
    return [entry for entry in candidates if not (path / entry.file).is_file()]


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{str(file)!r} is not valid JSON ({error}). Restore it, or remove it to get a report without it."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{str(file)!r} holds a {type(content).__name__}, but must hold an object ({{...}}). "
            "Restore it, or remove it to get a report without it."
        )
    return content


def _read_table(file: Path, *, text: tuple[str, ...], required: tuple[str, ...]) -> pd.DataFrame | None:
    """Read a CSV: ``text`` columns as strings ("000" and "NA" stay what they are), others as numbers if they are."""
    if not file.is_file():
        return None
    try:
        raw = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{str(file)!r} is not a readable CSV table ({error}). "
            "Write it again, or remove it to get a report without it."
        ) from error
    if absent := [name for name in required if name not in raw.columns]:
        raise ConfigError(
            f"{str(file)!r} has no column {absent[0]!r} (columns: {', '.join(raw.columns)}). "
            "Write it again with this version."
        )
    columns: dict[str, pd.Series] = {}
    for name in raw.columns:
        if name in text:
            columns[name] = raw[name]
            continue
        numbers = pd.to_numeric(raw[name], errors="coerce")
        is_blank = raw[name].str.strip().str.lower().isin(["", "nan", "na", "none", "null"])
        if numbers.isna().all() and not is_blank.all() and name not in required:  # a further column of words
            columns[name] = raw[name]
            continue
        if wrong := raw[name][numbers.isna() & ~is_blank].tolist():
            raise ConfigError(
                f"Column {name!r} of {str(file)!r} holds {wrong[0]!r}, but must hold numbers (empty = no value). "
                "Correct it, or write the table again."
            )
        columns[name] = numbers.astype(float)
    return pd.DataFrame(columns, columns=list(raw.columns))

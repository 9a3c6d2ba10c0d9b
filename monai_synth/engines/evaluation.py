"""Results of an evaluation as tables, and the rule that a model is not tested on its own training patients."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import pandas as pd
from ignite.engine import Engine, Events

from monai_synth.checkpoints import read_record, require_writable
from monai_synth.errors import ConfigError, LeakageError
from monai_synth.statistics import Interval, bootstrap_mean, format_interval, summarise, unit_of, values_by_patient

_FILES = ("condition", "target", "mask")


class Scores(Protocol):
    """Scores of single cases, such as :class:`monai_synth.metrics.CaseScores`."""

    @property
    def key_metric(self) -> str:
        """The score that decides."""

    @property
    def units(self) -> dict[str, str]:
        """Score to unit."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per method and case: ``method, patient_id, case_id`` and the scores."""

    def describe(self) -> dict[str, Any]:
        """What was computed, JSON-able."""


class Distribution(Protocol):
    """A score of all cases together, such as :class:`monai_synth.metrics.TextureDistance`."""

    @property
    def key_metric(self) -> str:
        """Its name."""

    @property
    def summary(self) -> pd.DataFrame:
        """Rows of ``summary.csv``."""

    def describe(self) -> dict[str, Any]:
        """What was computed, JSON-able."""


class EvaluationTables:
    """Writes ``cases.csv``, ``summary.csv`` and ``evaluation.json`` when an evaluation ends.

    Args:
        scores: the metric that collects one row per method and case; ``None`` where there is no target to compare with,
            as in unpaired synthesis: ``cases.csv`` then lists the cases with their files.
        directory: where the tables go.
        cases: the evaluated cases with their paths, as ``Manifest.cases`` gives them.
        split: which part of the manifest they are.
        checkpoint: the model file; ``model.json`` beside it says on which patients the model was trained.
        predictions: folder of the synthetic images, named ``<case_id><suffix>``.
        suffix: ending of the predictions, ``".nii.gz"`` or ``".png"``.
        distribution: scores of all cases together; their rows are added to ``summary.csv``.
        key_metric: the metric that a report leads with; by default that of ``scores``, else of ``distribution``.
        precision: arithmetic of the network.

    Raises:
        ConfigError: if the suffix does not begin with a point, or there is no such key metric.
        LeakageError: at the start, if the model was trained or selected on a patient evaluated here as ``test``.
    """

    def __init__(
        self,
        scores: Scores | None,
        directory: str | Path,
        *,
        cases: Sequence[Mapping[str, Any]],
        split: str,
        checkpoint: str | Path,
        predictions: str | Path | None = None,
        suffix: str = ".nii.gz",
        distribution: Sequence[Distribution] = (),
        key_metric: str | None = None,
        precision: str = "fp32",
    ) -> None:
        self.scores = scores
        self.directory = Path(directory)
        self.cases = {case["case_id"]: case for case in cases}
        self.split = split
        self.checkpoint = Path(checkpoint)
        self.predictions = None if predictions is None else Path(predictions)
        self.suffix = suffix
        self.distribution = list(distribution)
        self.precision = precision
        self._record: dict[str, Any] = {}
        if not suffix.startswith("."):
            raise ConfigError(f"EvaluationTables(suffix={suffix!r}): an ending such as '.nii.gz' or '.png' is needed.")
        known = [] if scores is None else [scores.key_metric, *scores.units]
        known += [each.key_metric for each in self.distribution]
        if key_metric is not None and key_metric not in known:
            raise ConfigError(
                f"EvaluationTables(key_metric={key_metric!r}): this is not computed, but "
                f"{', '.join(dict.fromkeys(known)) or 'nothing'}. Name one of them."
            )
        self.key_metric = key_metric or next(iter(known), None)

    def attach(self, engine: Engine) -> None:
        """Check before the first case, write after the last."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._record = read_record(self.checkpoint)
        refuse_leakage(self._record, [case["patient_id"] for case in self.cases.values()], split=self.split)
        require_writable(self.directory)
        if (self.directory / "evaluation.json").exists() and idist.get_rank() == 0:
            print(f"the evaluation in {self.directory} is replaced", flush=True)  # noqa: T201
        # An evaluation that fails must not leave the numbers of the one before.
        for name in ("cases.csv", "summary.csv", "evaluation.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _write(self, engine: Engine) -> None:
        table = self._cases_alone() if self.scores is None else self.scores.table
        summary = self._summary()
        if idist.get_rank() > 0:
            return
        table.insert(3, "split", self.split)
        for key in _FILES:
            table[key] = [self.cases[case].get(key, "") for case in table["case_id"]]
        table["prediction"] = [
            str(self.predictions / f"{case}{self.suffix}") if self.predictions is not None and method == "model" else ""
            for method, case in zip(table["method"], table["case_id"], strict=True)
        ]
        table.to_csv(self.directory / "cases.csv", index=False)
        summary.to_csv(self.directory / "summary.csv", index=False)
        about = {
            "split": self.split,
            "checkpoint": str(self.checkpoint),
            "epoch": self._record.get("epoch"),
            "model_created": self._record.get("created"),
            "precision": self.precision,
            "key_metric": self.key_metric,
            **({} if self.scores is None else self.scores.describe()),
            "distribution": {each.key_metric: each.describe() for each in self.distribution},
        }
        (self.directory / "evaluation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        self._print(summary)

    def _cases_alone(self) -> pd.DataFrame:
        """The rows of ``cases.csv`` where nothing was scored case by case."""
        rows = [("model", case["patient_id"], case_id) for case_id, case in sorted(self.cases.items())]
        return pd.DataFrame(rows, columns=["method", "patient_id", "case_id"])

    def _summary(self) -> pd.DataFrame:
        """Means of the scores with intervals, then what is known of all cases together."""
        parts = []
        if self.scores is not None:
            means, units = summarise(self.scores.table), self.scores.units
            means["unit"] = [units.get(metric, unit_of(metric)) for metric in means["metric"]]
            parts.append(means)
        parts += [each.summary for each in self.distribution]
        columns = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def _print(self, summary: pd.DataFrame) -> None:
        """The key metric of every method, and what is known of all cases together, for the terminal."""
        lines = []
        if self.scores is not None:
            metric, table = self.scores.key_metric, self.scores.table
            for method in table["method"].unique():
                interval = bootstrap_mean(values_by_patient(table, metric, method=method))
                text = format_interval(interval, name=metric, unit=self.scores.units.get(metric, unit_of(metric)))
                lines.append(f"{method}: {text}")
        for each in self.distribution:
            for row in each.summary.to_dict("records"):
                interval = Interval(row["mean"], row["ci_low"], row["ci_high"], int(row["n"]))
                text = format_interval(interval, name=row["metric"], unit=row["unit"], decimals=2)
                lines.append(f"{row['method']}: {text}")
        for line in [*lines, f"tables and images: {self.directory}"]:
            print(line, flush=True)  # noqa: T201


def refuse_leakage(record: Mapping[str, Any], patients: Sequence[str], *, split: str) -> None:
    """Stop a test on patients that the model has seen.

    Args:
        record: the model's ``model.json``.
        patients: who would be evaluated.
        split: what the evaluation calls them; ``train`` and ``val`` may hold patients of these very splits.
    """
    seen_by_split = record.get("manifest", {}).get("patients", {})
    forbidden = {"test": ("train", "val"), "val": ("train",), "train": ()}.get(split, ("train", "val"))
    for role in forbidden:
        if shared := sorted(set(patients) & set(seen_by_split.get(role, ()))):
            raise LeakageError(
                f"{len(shared)} of the {len(set(patients))} patients to be evaluated as {split!r} belonged to the "
                f"model's {role!r} patients (first: {shared[0]!r}). A model may not be tested on patients it was "
                f"trained or selected on: evaluate other patients, or say what they are with --split {role}."
            )

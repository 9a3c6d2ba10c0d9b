"""Results of an evaluation as tables, and the rule that a model is not tested on its own training patients."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_synth.checkpoints import read_record, require_writable
from monai_synth.errors import LeakageError
from monai_synth.metrics import CaseScores
from monai_synth.statistics import bootstrap_mean, format_interval, summarise, unit_of, values_by_patient


class EvaluationTables:
    """Writes ``cases.csv``, ``summary.csv`` and ``evaluation.json`` when an evaluation ends.

    Args:
        scores: the metric that collects one row per method and case.
        directory: where the tables go.
        cases: the evaluated cases with their paths, as ``Manifest.cases`` gives them.
        split: which part of the manifest they are.
        checkpoint: the model file; ``model.json`` beside it says on which patients the model was trained.
        predictions: folder of the synthetic images, named ``<case_id>.nii.gz``.
        precision: arithmetic of the network.

    Raises:
        LeakageError: at the start, if the model was trained or selected on a patient evaluated here as ``test``.
    """

    def __init__(
        self,
        scores: CaseScores,
        directory: str | Path,
        *,
        cases: Sequence[Mapping[str, Any]],
        split: str,
        checkpoint: str | Path,
        predictions: str | Path | None = None,
        precision: str = "fp32",
    ) -> None:
        self.scores = scores
        self.directory = Path(directory)
        self.cases = {case["case_id"]: case for case in cases}
        self.split = split
        self.checkpoint = Path(checkpoint)
        self.predictions = None if predictions is None else Path(predictions)
        self.precision = precision
        self._record: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Check before the first case, write after the last."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._record = read_record(self.checkpoint)
        refuse_leakage(self._record, [case["patient_id"] for case in self.cases.values()], split=self.split)
        require_writable(self.directory)
        # An evaluation that fails must not leave the numbers of the one before.
        for name in ("cases.csv", "summary.csv", "evaluation.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _write(self, engine: Engine) -> None:
        table = self.scores.table
        if idist.get_rank() > 0:
            return
        table.insert(3, "split", self.split)
        for key in ("condition", "target", "mask"):
            table[key] = [self.cases[case].get(key, "") for case in table["case_id"]]
        table["prediction"] = [
            str(self.predictions / f"{case}.nii.gz") if self.predictions is not None and method == "model" else ""
            for method, case in zip(table["method"], table["case_id"], strict=True)
        ]
        table.to_csv(self.directory / "cases.csv", index=False)
        summarise(self.scores.table).to_csv(self.directory / "summary.csv", index=False)
        about = {
            "split": self.split,
            "checkpoint": str(self.checkpoint),
            "epoch": self._record.get("epoch"),
            "model_created": self._record.get("created"),
            "preset": self.scores.preset,
            "precision": self.precision,
            "bins_hu": self.scores.bins_hu,
        }
        (self.directory / "evaluation.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        self._print()

    def _print(self) -> None:
        """The key metric of every method, for the terminal."""
        metric = self.scores.key_metric
        for method in self.scores.table["method"].unique():
            interval = bootstrap_mean(values_by_patient(self.scores.table, metric, method=method))
            print(f"{method}: {format_interval(interval, name=metric, unit=unit_of(metric))}", flush=True)  # noqa: T201
        print(f"tables and images: {self.directory}", flush=True)  # noqa: T201


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

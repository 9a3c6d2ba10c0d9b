"""What the numbers of a run say in words: model against the best baseline, and what limits that statement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from monai_synth.reports.quantities import DASH, MINUS, Estimate, estimates, method_label, quantity
from monai_synth.reports.run_folder import MODEL, RunFolder, read_run
from monai_synth.statistics import Interval, paired_difference

KEY_METRIC = "mae_hu"
FEW_PATIENTS = 10
# Two-sided sign test: with five patients even five wins have p = 0.0625, with six p = 0.031.
MIN_PAIRS = 6


@dataclass(frozen=True)
class Verdict:
    """One sentence, how it ends (``better``, ``open``, ``worse``, ``none``) and the warnings that belong to it."""

    sentence: str
    outcome: str
    warnings: tuple[str, ...]


def best_baseline(found: Mapping[tuple[str, str], Estimate]) -> Estimate | None:
    """Baseline with the lowest mean masked MAE; ``None`` without baselines."""
    baselines = [
        entry
        for (method, metric), entry in found.items()
        if metric == KEY_METRIC and method != MODEL and not math.isnan(entry.mean)
    ]
    return min(baselines, key=lambda entry: entry.mean, default=None)


def judge(run: RunFolder) -> Verdict:
    """Compare the model with the best baseline by masked MAE."""
    found = estimates(run.summary)
    model, baseline = found.get((MODEL, KEY_METRIC)), best_baseline(found)
    warnings = tuple(_warnings(run, model))
    if model is None:
        reason = (
            "evaluation/summary.csv is missing" if run.summary is None else "summary.csv has no masked MAE of the model"
        )
        return Verdict(f"Not evaluated yet, so nothing can be said about quality: {reason}.", "none", warnings)
    who = f"{_split_words(run)}: the model's masked MAE is {model}"
    if math.isnan(model.mean):
        return Verdict(f"{who}, so no verdict is possible.", "none", warnings)
    if baseline is None:
        return Verdict(
            f"{who}. There is no baseline to compare it with, so this number has no yardstick.", "none", warnings
        )
    other = f"that of the best baseline, {method_label(baseline.method)}, is {baseline}"
    pairs = _pairs(run.cases, baseline.method)
    paired, num_pairs = _paired_words(pairs), 0 if pairs is None else pairs[0].n
    if model.mean >= baseline.mean:
        return Verdict(f"The model does not beat the best baseline. {who}; {other}.{paired}", "worse", warnings)
    rest = f"{who}; {other}. Model / baseline = {_ratio(model, baseline)}.{paired}"
    if pairs is None or num_pairs < MIN_PAIRS:
        few = f"{num_pairs} {_plural('patient', num_pairs)} with both"
        why = f"{few} cannot show a difference (at least {MIN_PAIRS} needed)"
    elif not pairs[0].high < 0:
        why = "the interval of the paired difference does not exclude 0"
    else:
        return Verdict(f"The model beats the best baseline. {rest}", "better", warnings)
    return Verdict(f"The model's mean is below the best baseline's, but {why}. {rest}", "open", warnings)


def headline(run_dir: Path) -> list[str]:
    """Three lines of results for the terminal.

    Args:
        run_dir: folder of a run.

    Returns:
        Model's masked MAE; best baseline and ratio; PSNR and SSIM. Each number has unit, 95 % interval and n. What
        is missing is said in its line.

    Raises:
        ConfigError: when the folder is not a run.
    """
    run = read_run(run_dir)
    found = estimates(run.summary)
    model, baseline = found.get((MODEL, KEY_METRIC)), best_baseline(found)
    if model is None:
        return [
            "model: not evaluated (no masked MAE in evaluation/summary.csv)",
            f"evaluate, in the folder of the bundle, with: {run.evaluate_command}",
            _last_validation(run.history),
        ]
    split = run.evaluation.get("split")
    note = " [training patients: not a test]" if split == "train" else ""
    first = f"model, {split or 'unknown'} split: masked MAE {model}{note}"
    if baseline is None:
        second = "best baseline: none was evaluated, so the model's number has no yardstick"
    else:
        second = (
            f"best baseline, {method_label(baseline.method)}: masked MAE {baseline}; "
            f"model / baseline = {_ratio(model, baseline)}"
        )
    similarity = [found[MODEL, name] for name in ("psnr_db", "ssim", "ssim_2d", "ms_ssim") if (MODEL, name) in found]
    third = [f"{quantity(entry.metric).label} {entry}" for entry in similarity if not math.isnan(entry.mean)]
    last = "model: " + (", ".join(third) if third else "no PSNR or SSIM in evaluation/summary.csv")
    return [line.replace(MINUS, "-").replace(DASH, "-") for line in (first, second, last)]  # any terminal can print it


def _ratio(model: Estimate, baseline: Estimate) -> str:
    return f"{model.mean / baseline.mean:.2f}" if baseline.mean > 0 else "undefined (the baseline has no error)"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _split_words(run: RunFolder) -> str:
    split = run.evaluation.get("split")
    words = {"test": "On test patients", "val": "On validation patients", "train": "On training patients"}
    return words.get(str(split), f"On split {split!r}" if split else "On patients of an unknown split")


def _warnings(run: RunFolder, model: Estimate | None) -> list[str]:
    if model is None:
        return []
    split = run.evaluation.get("split")
    warnings = []
    if split == "train":
        warnings.append("Training patients: not a test. The network has seen these images.")
    elif split == "val":
        warnings.append("Validation patients: they chose the checkpoint, so these numbers are optimistic.")
    now, then = run.checkpoint.get("created"), run.evaluation.get("model_created")
    if now and then and (now, run.checkpoint.get("epoch")) != (then, run.evaluation.get("epoch")):
        warnings.append(
            "models/model.pt has changed since this evaluation: these numbers are those of an earlier model."
        )
    evaluated = _patients(run.cases)
    trained = {str(name) for name in run.run.get("manifest", {}).get("patients", {}).get("train", [])}
    if split != "train" and (shared := sorted(evaluated & trained)):
        warnings.append(
            f"{len(shared)} of {len(evaluated)} evaluated patients (first: {shared[0]}) were trained on: not a test."
        )
    if 0 < model.num_patients < FEW_PATIENTS:
        few = f"Only {model.num_patients} {_plural('patient', model.num_patients)}"
        warnings.append(f"{few}: the interval is rough, and nothing follows for other scanners or patients.")
    if (without := _cases_without_value(run.cases)) > 0:
        count = f"{without} {_plural('case', without)} of the model without an MAE"
        warnings.append(f"{count} {'is' if without == 1 else 'are'} not in the mean (see the table of all cases).")
    return warnings


def _model_cases(cases: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if cases is None else cases[cases["method"] == MODEL]


def _patients(cases: pd.DataFrame | None) -> set[str]:
    rows = _model_cases(cases)
    return set() if rows is None or "patient_id" not in rows else set(rows["patient_id"])


def _cases_without_value(cases: pd.DataFrame | None) -> int:
    rows = _model_cases(cases)
    return 0 if rows is None or KEY_METRIC not in rows else int(rows[KEY_METRIC].isna().sum())


def _pairs(cases: pd.DataFrame | None, baseline: str) -> tuple[Interval, int] | None:
    """Paired difference model - baseline over patients, and in how many patients the model's MAE is the lower one."""
    if cases is None or not {"patient_id", KEY_METRIC} <= set(cases.columns):
        return None
    rows = cases[cases["method"].isin([MODEL, baseline])].dropna(subset=[KEY_METRIC])
    means = rows.groupby(["patient_id", "method"])[KEY_METRIC].mean().unstack("method")
    if not {MODEL, baseline} <= set(means.columns):
        return None
    means = means.dropna()
    if means.empty:
        return None
    model, other = ({str(name): float(mean) for name, mean in means[column].items()} for column in (MODEL, baseline))
    return paired_difference(model, other), int((means[MODEL] < means[baseline]).sum())


def _paired_words(pairs: tuple[Interval, int] | None) -> str:
    if pairs is None:
        return ""
    interval, wins = pairs
    estimate = Estimate(MODEL, KEY_METRIC, "HU", interval.n, interval.mean, interval.low, interval.high)
    difference = f" Paired difference model {MINUS} baseline: {estimate}"
    return f"{difference}; the model is lower in {wins} of {interval.n} {_plural('patient', interval.n)}."


def _last_validation(history: pd.DataFrame | None) -> str:
    if history is None or "val_mae_hu" not in history or history["val_mae_hu"].dropna().empty:
        return "training: no validation recorded in history.csv"
    best = history.sort_values("val_mae_hu", na_position="last").iloc[0]
    value = f"best validation MAE {best['val_mae_hu']:.1f} HU at epoch {int(best['epoch'])}"
    return f"training: {value} (no interval: it chose the checkpoint)"

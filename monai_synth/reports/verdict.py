"""What the numbers of a run say in words: model against the best baseline, and what limits that statement."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from monai_synth.reports.quantities import DASH, MINUS, Estimate, estimates, method_label, name_of, number, quantity
from monai_synth.reports.run_folder import ERRORS, MODEL, REAL_IMAGES, RunFolder, read_run
from monai_synth.statistics import Interval, paired_difference

FEW_PATIENTS = 10
# Two-sided sign test: with five patients even five wins have p = 0.0625, with six p = 0.031.
MIN_PAIRS = 6


@dataclass(frozen=True)
class Verdict:
    """One sentence, how it ends (``better``, ``open``, ``worse``, ``none``) and the warnings that belong to it."""

    sentence: str
    outcome: str
    warnings: tuple[str, ...]


def best_baseline(found: Mapping[tuple[str, str], Estimate], metric: str = ERRORS[0]) -> Estimate | None:
    """Baseline with the best mean of ``metric``; ``None`` without baselines."""
    baselines = [
        entry
        for (method, name), entry in found.items()
        if name == metric and method not in (MODEL, REAL_IMAGES) and not math.isnan(entry.mean)
    ]
    return min(baselines, key=lambda entry: _sign(metric) * entry.mean, default=None)


def judge(run: RunFolder) -> Verdict:
    """Compare the model with the best baseline by the metric that decides, such as masked MAE."""
    metric, found = run.key_metric, estimates(run.summary)
    name = name_of(metric, run.evaluation)
    model, baseline = found.get((MODEL, metric)), best_baseline(found, metric)
    warnings = tuple(_warnings(run, model))
    if model is None:
        reason = f"summary.csv has no {name} of the model"
        if run.summary is None or (run.summary.empty and not run.case_metrics):
            reason = f"evaluation/summary.csv is {'missing' if run.summary is None else 'empty'}"
        return Verdict(f"Not evaluated yet, so nothing can be said about quality: {reason}.", "none", warnings)
    who = f"{_split_words(run)}: the model's {name} is {model}"
    if math.isnan(model.mean):
        return Verdict(f"{who}, so no verdict is possible.", "none", warnings)
    real = found.get((REAL_IMAGES, metric))
    who += "" if real is None else f"; that of real images, which no method needs to beat, is {real}"
    if baseline is None:
        lack = "There is no baseline to compare it with"
        lack += ", so this number has no yardstick." if real is None else "."
        return Verdict(f"{who}. {lack}", "none", warnings)
    other = f"that of the best baseline, {method_label(baseline.method)}, is {baseline}"
    pairs = _pairs(run.cases, baseline.method, metric)
    paired, num_pairs = _paired_words(pairs, model), 0 if pairs is None else pairs[0].n
    if _sign(metric) * (model.mean - baseline.mean) >= 0:
        return Verdict(f"The model does not beat the best baseline. {who}; {other}.{paired}", "worse", warnings)
    ratio = f" Model / baseline = {_ratio(model, baseline)}." if _sign(metric) > 0 and baseline.mean > 0 else ""
    rest = f"{who}; {other}.{ratio}{paired}"
    if pairs is None and metric not in run.case_metrics and run.cases is not None:
        why = f"the {name} belongs to all cases together, so there are no pairs that could show a difference"
    elif pairs is None or num_pairs < MIN_PAIRS:
        few = f"{num_pairs} {_plural('patient', num_pairs)} with both"
        why = f"{few} cannot show a difference (at least {MIN_PAIRS} needed)"
    elif not max(_sign(metric) * pairs[0].low, _sign(metric) * pairs[0].high) < 0:
        why = "the interval of the paired difference does not exclude 0"
    else:
        return Verdict(f"The model beats the best baseline. {rest}", "better", warnings)
    side = "below" if _sign(metric) > 0 else "above"
    return Verdict(f"The model's mean is {side} the best baseline's, but {why}. {rest}", "open", warnings)


def headline(run_dir: Path) -> list[str]:
    """Three lines of results for the terminal.

    Args:
        run_dir: folder of a run.

    Returns:
        The metric that decides, such as masked MAE, of the model; best baseline and ratio; what else there is. Each
        number has unit, 95 % interval and n. What is missing is said in its line.

    Raises:
        ConfigError: when the folder is not a run.
    """
    run = read_run(run_dir)
    metric, found = run.key_metric, estimates(run.summary)
    name = name_of(metric, run.evaluation)
    model, baseline = found.get((MODEL, metric)), best_baseline(found, metric)
    if model is None:
        return [
            f"model: not evaluated (no {name} in evaluation/summary.csv)",
            f"evaluate, in the folder of the bundle and with the options of the training, with: {run.evaluate_command}",
            _last_validation(run, metric),
        ]
    split = run.evaluation.get("split")
    note = " [training patients: not a test]" if split == "train" else ""
    first = f"model, {split or 'unknown'} split: {name} {model}{note}"
    if baseline is None:
        second = "best baseline: none was evaluated, so the model's number has no yardstick"
    else:
        second = (
            f"best baseline, {method_label(baseline.method)}: {name} {baseline}; "
            f"model / baseline = {_ratio(model, baseline)}"
        )
    if real := found.get((REAL_IMAGES, metric)):
        second = f"real images: {name} {real}" + ("" if baseline is None else f"; {second}")
    further = ("psnr_db", "ssim", "ssim_2d", "ms_ssim") if metric in ERRORS else ERRORS
    similarity = [found[MODEL, other] for other in further if (MODEL, other) in found]
    third = [f"{quantity(entry.metric).label} {entry}" for entry in similarity if not math.isnan(entry.mean)]
    absent = "no PSNR or SSIM in evaluation/summary.csv" if metric in ERRORS else "no MAE in evaluation/summary.csv"
    last = "model: " + (", ".join(third) if third else absent)
    return [line.replace(MINUS, "-").replace(DASH, "-") for line in (first, second, last)]  # any terminal can print it


def _sign(metric: str) -> int:
    """1 where less is better, -1 where more is."""
    return -1 if quantity(metric).better == "higher" else 1


def _ratio(model: Estimate, baseline: Estimate) -> str:
    if baseline.metric not in ERRORS and baseline.mean <= 0:  # an unbiased distance may be below 0
        return "undefined (the baseline is not above 0)"
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
    if run.case_metric is not None and (without := _cases_without_value(run.cases, run.case_metric)) > 0:
        label = quantity(run.case_metric).label
        article = "an" if label[0] in "AEFHILMNORSX" else "a"
        count = f"{without} {_plural('case', without)} of the model without {article} {label}"
        warnings.append(f"{count} {'is' if without == 1 else 'are'} not in the mean (see the table of all cases).")
    return warnings


def _model_cases(cases: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if cases is None else cases[cases["method"] == MODEL]


def _patients(cases: pd.DataFrame | None) -> set[str]:
    rows = _model_cases(cases)
    return set() if rows is None or "patient_id" not in rows else set(rows["patient_id"])


def _cases_without_value(cases: pd.DataFrame | None, metric: str) -> int:
    rows = _model_cases(cases)
    return 0 if rows is None or metric not in rows else int(rows[metric].isna().sum())


def _pairs(cases: pd.DataFrame | None, baseline: str, metric: str) -> tuple[Interval, int] | None:
    """Paired difference model - baseline over patients, and in how many patients the model is the better one."""
    if cases is None or not {"patient_id", metric} <= set(cases.columns):
        return None
    rows = cases[cases["method"].isin([MODEL, baseline])].dropna(subset=[metric])
    means = rows.groupby(["patient_id", "method"])[metric].mean().unstack("method")
    if not {MODEL, baseline} <= set(means.columns):
        return None
    means = means.dropna()
    if means.empty:
        return None
    model, other = ({str(name): float(mean) for name, mean in means[column].items()} for column in (MODEL, baseline))
    return paired_difference(model, other), int((_sign(metric) * (means[MODEL] - means[baseline]) < 0).sum())


def _paired_words(pairs: tuple[Interval, int] | None, model: Estimate) -> str:
    if pairs is None:
        return ""
    interval, wins = pairs
    estimate = Estimate(MODEL, model.metric, model.unit, interval.n, interval.mean, interval.low, interval.high)
    difference = f" Paired difference model {MINUS} baseline: {estimate}"
    side = "lower" if _sign(model.metric) > 0 else "higher"
    return f"{difference}; the model is {side} in {wins} of {interval.n} {_plural('patient', interval.n)}."


def _last_validation(run: RunFolder, metric: str) -> str:
    history, column, what = run.history, f"val_{metric}", quantity(metric, unit=run.units.get(metric, ""))
    if history is None or column not in history or history[column].dropna().empty:
        return "training: no validation recorded in history.csv"
    best = history.sort_values(column, ascending=_sign(metric) > 0, na_position="last").iloc[0]
    unit = f" {what.unit}" if what.unit not in ("", "1") else ""
    value = f"best validation {what.label} {number(best[column], what.decimals)}{unit} at epoch {int(best['epoch'])}"
    return f"training: {value} (no interval: it chose the checkpoint)"

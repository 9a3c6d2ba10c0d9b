"""The Snakemake workflows as their user starts them, killed in the middle included."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_synth.data.manifest import read_manifest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None,
    reason="snakemake is not installed: pip install 'monai-synth[workflows]'",
)

TINY = ["--channels 8", '--patch_size "[64,64]"', "--batch_size 8", "--val_interval 1"]
NUM_FOLDS = 2
NUM_EPOCHS = 6
KILL_AFTER_S = 240
Start = Callable[..., "subprocess.Popen[str]"]
Snakemake = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(repository: Path, tmp_path: Path) -> Start:
    """Start the cross validation in ``tmp_path``, in a process group of its own."""

    def run(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "pipelines" / "mr_to_ct.smk")]
        command += ["--profile", str(repository / "pipelines" / "profiles" / "local"), "--cores", "1", *arguments]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return run


@pytest.fixture
def snakemake(start: Start) -> Snakemake:
    """Run the cross validation to its end."""

    def run(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        process = start(*arguments)
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if check and process.returncode != 0:
            pytest.fail(f"snakemake {' '.join(arguments)}\n{output[-6000:]}")
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    return run


def settings(manifest: Path, *options: str) -> list[str]:
    """The configuration on the command line; results go to a folder whose name has a blank."""
    texts = ", ".join("'" + option + "'" for option in options)
    return ["--config", f"manifest={manifest}", "out=the folds", f"num_folds={NUM_FOLDS}", f"options=[{texts}]"]


def test_a_dry_run_plans_every_fold_once(snakemake: Snakemake, demo_manifest: Path) -> None:
    plan = snakemake("--dry-run", *settings(demo_manifest, *TINY)).stdout
    counts = dict(line.split() for line in plan.partition("Job stats:")[2].splitlines()[3:11])
    per_fold, once = dict.fromkeys(("train", "evaluate", "report"), "2"), dict.fromkeys(("check", "split", "pool"), "1")
    assert counts == {**per_fold, **once, "all": "1", "total": "10"}
    assert plan.count("monai.bundle run training") == NUM_FOLDS
    evaluations = [line for line in plan.splitlines() if "monai.bundle run evaluating" in line]
    assert len(evaluations) == NUM_FOLDS
    assert all(f"--dataset_dir {demo_manifest.parent}" in line and "--split val" in line for line in evaluations)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=folds"], "no 'manifest'"),
        (["manifest=cohort.csv", "out=folds", "num_folds=1"], "num_folds is 1"),
        (["manifest=cohort.csv", "out=folds", "folds=3"], "has 'folds', but its keys are"),
        (["manifest=cohort.csv", "out=folds", "options=['--epochs 3 --fold=1']"], "options holds --fold"),
        (["manifest=cohort.csv", "out=folds", "bundle=nowhere"], "no configs/train.json"),
    ],
)
def test_a_wrong_configuration_is_refused(snakemake: Snakemake, arguments: list[str], message: str) -> None:
    result = snakemake("--dry-run", "--config", *arguments, check=False)
    assert result.returncode != 0
    assert message in result.stdout


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_and_scores_every_patient_once(
    start: Start, snakemake: Snakemake, repository: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(repository / "bundles" / "mr_to_ct_pix2pix" / "configs", bundle / "configs")
    study = [*settings(demo_manifest, *TINY, f"--epochs {NUM_EPOCHS}"), f"bundle={bundle}"]
    out = tmp_path / "the folds"

    kill_once(start(*study), there_is=out / "fold_0" / "models" / "last.pt")
    before = pd.read_csv(out / "fold_0" / "history.csv")
    assert 1 <= len(before) < NUM_EPOCHS
    assert not (out / "fold_0" / "trained.done").exists()

    snakemake("--unlock", *study)
    snakemake(*study)
    history = pd.read_csv(out / "fold_0" / "history.csv")
    assert list(history["epoch"]) == list(range(1, NUM_EPOCHS + 1))
    # The checkpoint follows the row of an epoch, so the last row may have been written again.
    pd.testing.assert_frame_equal(history.head(len(before) - 1), before.head(len(before) - 1))
    logs = [(out / f"fold_{fold}" / "training.log").read_text() for fold in range(NUM_FOLDS)]
    assert ["resume: 'true'" in log for log in logs] == [True, False]
    assert all((out / f"fold_{fold}" / "report.html").stat().st_size > 0 for fold in range(NUM_FOLDS))

    cohort = read_manifest(out / "folds.csv", data_root=demo_manifest.parent).table
    in_folds = cohort.dropna(subset=["fold"])
    assert set(cohort["case_id"]) - set(in_folds["case_id"]) == set(cohort.loc[cohort["split"] == "test", "case_id"])
    cases = pd.read_csv(out / "cases.csv", dtype={"patient_id": str, "case_id": str})
    scored = cases[cases["method"] == "model"]
    assert sorted(zip(scored["case_id"], scored["fold"], strict=True)) == sorted(
        zip(in_folds["case_id"], in_folds["fold"], strict=True)
    )
    summary = pd.read_csv(out / "summary.csv").set_index(["method", "metric"])
    pooled = summary.loc[("model", "mae_hu")]
    assert pooled["n"] == in_folds["patient_id"].nunique()
    assert pooled["mean"] == pytest.approx(scored.groupby("patient_id")["mae_hu"].mean().mean())
    assert np.isnan(pooled["ci_low"])  # fewer than five patients give no interval

    assert "Nothing to be done" in snakemake(*study).stdout

    # Trained completely, but killed before Snakemake could note it.
    model = (out / "fold_0" / "models" / "model.pt").read_bytes()
    shutil.rmtree(out / "fold_0" / "evaluation")
    (out / "fold_0" / "trained.done").unlink()
    snakemake(*study)
    assert (out / "fold_0" / "models" / "model.pt").read_bytes() == model
    assert len(pd.read_csv(out / "fold_0" / "history.csv")) == NUM_EPOCHS

    # Another split would evaluate a resumed model on its own training patients.
    refused = snakemake(*study, "seed=1", check=False)
    assert refused.returncode != 0
    assert "begun with other settings" in refused.stdout
    assert (out / "fold_0" / "models" / "model.pt").read_bytes() == model


def kill_once(process: "subprocess.Popen[str]", *, there_is: Path) -> None:
    """Kill a process and its children, without a chance to tidy up, as soon as a file exists."""
    give_up = time.monotonic() + KILL_AFTER_S
    while not there_is.exists() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.02)
    is_early = process.poll() is None
    if is_early:
        os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    if not is_early or not there_is.exists():
        pytest.fail(f"{there_is} did not appear while the workflow ran:\n{output[-6000:]}")

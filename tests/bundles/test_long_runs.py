"""What a bundle's training does on a cluster: it is stopped and resumed, and tracked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.bundles.conftest import SMALL, RunBundle


def _command(manifest: Path, out: Path, *more: str) -> list[str]:
    options = ["--manifest", str(manifest), "--output_dir", str(out), *SMALL[:-4], "--epochs", "3", *more]
    return ["run", "training", "--config_file", "configs/train.json", *options, "--val_interval", "3"]


@pytest.mark.slow
def test_a_terminated_training_ends_well_and_goes_on_bitwise(
    bundle: Path, run_bundle: RunBundle, demo_manifest: Path, tmp_path: Path
) -> None:
    run_bundle(*_command(demo_manifest, tmp_path / "whole"))
    command = [sys.executable, "-u", "-W", "ignore", "-m", "monai.bundle"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(bundle.parent.parent)}
    process = subprocess.Popen(
        [*command, *_command(demo_manifest, tmp_path / "parts")],
        cwd=bundle,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert process.stdout is not None
    said = ""
    while "epoch 1/3" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "stopped by SIGTERM in epoch 2" in said

    run_bundle(*_command(demo_manifest, tmp_path / "parts", "--resume", "true"))
    whole, parts = (
        torch.load(tmp_path / folder / "models" / "last.pt", weights_only=True)["parts"]
        for folder in ("whole", "parts")
    )
    for part in ("generator", "discriminator"):
        assert all(torch.equal(value, parts[part][key]) for key, value in whole[part].items()), part
    average, resumed = whole["ema"]["network"], parts["ema"]["network"]
    assert all(torch.equal(value, resumed[key]) for key, value in average.items())


@pytest.mark.slow
def test_losses_and_metrics_reach_mlflow(run_bundle: RunBundle, demo_manifest: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/mlruns.db"
    options = ["--tracking", "mlflow", "--tracking_uri", store, "--experiment_name", "demo"]
    run_bundle(*_command(demo_manifest, tmp_path / "out", *options))
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("demo")
    found: dict[str, int] = {}
    for run in client.search_runs([experiment.experiment_id]):
        for name in run.data.metrics:
            found[name] = found.get(name, 0) + len(client.get_metric_history(run.info.run_id, name))
    epochs = 3
    # The sum in every iteration, its terms as means of every epoch, metrics of every validation.
    assert found["train_loss"] > epochs
    assert all(found[name] == epochs for name in ("d_real", "d_fake", "g_gan", "g_l1"))
    assert found["mae_hu"] == 1

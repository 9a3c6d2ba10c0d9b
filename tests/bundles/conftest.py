"""One very small training of the bundle, by the command a user types; all tests of its results share it."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

SMALL = ["--channels", "8", "--patch_size", "[64,64]", "--batch_size", "8", "--epochs", "2", "--val_interval", "1"]
RunBundle = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def bundle(repository: Path) -> Path:
    return repository / "bundles" / "mr_to_ct_pix2pix"


def run_in(
    folder: Path, *arguments: str, launcher: tuple[str, ...] = (), check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m monai.bundle …`` in a bundle's folder."""
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "monai.bundle", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder.parent.parent), "PYTHONUTF8": "1"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}")
    return result


@pytest.fixture(scope="session")
def run_bundle(bundle: Path) -> RunBundle:
    """Run ``python -m monai.bundle …`` in the folder of the MR to CT bundle."""
    return partial(run_in, bundle)


@pytest.fixture(scope="session")
def trained(run_bundle: RunBundle, demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training over two epochs."""
    out = tmp_path_factory.mktemp("run")
    train = ["run", "training", "--config_file", "configs/train.json", "--manifest", str(demo_manifest)]
    run_bundle(*train, "--output_dir", str(out), *SMALL)
    return out


@pytest.fixture(scope="session")
def evaluated(run_bundle: RunBundle, trained: Path, demo_manifest: Path) -> Path:
    """The same folder after an evaluation of the test patients."""
    configs = "['configs/train.json','configs/evaluate.json']"
    run_bundle(
        "run",
        "evaluating",
        "--config_file",
        configs,
        "--manifest",
        str(demo_manifest),
        "--output_dir",
        str(trained),
        *SMALL,
    )
    return trained

"""What a launcher says becomes what torch reads."""

import os
import subprocess
import sys

import pytest

from monai_synth.engines import local_device
from monai_synth.engines.distributed import start_process_group
from monai_synth.errors import ConfigError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4711"}
_SUM = """
import torch, torch.distributed as dist
from monai_synth.engines.distributed import start_process_group, stop_process_group
start_process_group()
x = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(x)
print(int(x))
stop_process_group()
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*_NAMES, *_SLURM):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_ranks_of_srun_are_taken(environment: pytest.MonkeyPatch) -> None:
    for name, value in _SLURM.items():
        environment.setenv(name, value)
    local_device()
    assert [os.environ[name] for name in _NAMES] == ["1", "4", "1", "127.0.0.1", "24711"]


def test_those_of_torchrun_come_first(environment: pytest.MonkeyPatch) -> None:
    for name, value in {**_SLURM, "RANK": "0", "WORLD_SIZE": "2"}.items():
        environment.setenv(name, value)
    local_device()
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "2")
    assert "MASTER_ADDR" not in os.environ


def test_a_single_task_is_no_launcher(environment: pytest.MonkeyPatch) -> None:
    for name, value in {**_SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun.*srun"):
        start_process_group()


def test_several_nodes_need_the_name_of_the_first(environment: pytest.MonkeyPatch) -> None:
    for name, value in {**_SLURM, "SLURM_NNODES": "2"}.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigError, match=r"export MASTER_ADDR=\$\(scontrol show hostnames"):
        local_device()


def test_two_tasks_of_srun_meet() -> None:
    plain = {key: value for key, value in os.environ.items() if key not in _NAMES}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SUM],
            env={**plain, **_SLURM, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    assert [task.communicate(timeout=120)[0].strip() for task in tasks] == ["3", "3"]

"""A training that is told to stop saves exactly what it has, also in the middle of an epoch."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.utils import set_determinism

from monai_synth.errors import ConfigError
from monai_synth.handlers import StopSignal
from tests.handlers.trainings import MakeTrainer, assemble, assert_same, everything

EPOCHS = 3
BATCHES = 5  # an epoch of the toy training


def _train_whole(make_trainer: MakeTrainer, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    set_determinism(seed=0)
    trainer, checkpoint, ema = assemble(make_trainer, folder, max_epochs=EPOCHS, **options)
    checkpoint.start(trainer)
    trainer.run()
    return everything(trainer, ema)


def _train_with_stop(
    make_trainer: MakeTrainer, folder: Path, at: int, *, name: str = "SIGTERM", **options: Any
) -> tuple[dict[str, torch.Tensor], int]:
    """Stopped by a signal in iteration ``at``, then resumed; also gives the iteration that was stopped after."""
    set_determinism(seed=0)
    trainer, checkpoint, _ = assemble(make_trainer, folder, max_epochs=EPOCHS, **options)
    checkpoint.start(trainer)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=at), lambda _: os.kill(os.getpid(), getattr(signal, name)))
    with pytest.raises(SystemExit) as stop:
        trainer.run()
    assert stop.value.code == 0
    stopped_after = trainer.state.iteration

    torch.manual_seed(99), np.random.seed(99)  # noqa: NPY002 - a new process would differ too
    trainer, checkpoint, ema = assemble(make_trainer, folder, max_epochs=EPOCHS, **options)
    checkpoint.start(trainer, resume=True)
    trainer.run()
    assert trainer.state.iteration == EPOCHS * BATCHES
    return everything(trainer, ema), stopped_after


@pytest.mark.parametrize("at", [1, 7, 10, 14])
def test_stopping_and_resuming_is_bitwise_the_same_as_one_training(
    make_trainer: MakeTrainer, tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _train_whole(make_trainer, tmp_path / "whole")
    parts, stopped_after = _train_with_stop(make_trainer, tmp_path / "parts", at)
    assert stopped_after == at
    assert_same(whole, parts)
    where = "" if at % BATCHES == 0 else f", after {at % BATCHES} of 5 iterations"
    sentence = f"stopped by SIGTERM in epoch {(at - 1) // BATCHES + 1}{where}; the exact state is in "
    assert sentence in capsys.readouterr().out
    one, other = (pd.read_csv(tmp_path / folder / "history.csv") for folder in ("whole", "parts"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))


def test_a_training_can_be_stopped_twice_in_one_epoch(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = _train_whole(make_trainer, tmp_path / "whole")
    set_determinism(seed=0)
    for resume, at in ((False, 7), (True, 8), (True, 0)):
        trainer, checkpoint, ema = assemble(make_trainer, tmp_path / "parts", max_epochs=EPOCHS)
        checkpoint.start(trainer, resume=resume)
        if at:
            trainer.add_event_handler(
                Events.ITERATION_STARTED(event_filter=lambda _, number, at=at: number == at),
                lambda _: os.kill(os.getpid(), signal.SIGTERM),
            )
            with pytest.raises(SystemExit):
                trainer.run()
            assert trainer.state.iteration == at
            assert (trainer.state.epoch, torch.load(checkpoint.file)["epoch"]) == (2, 1)
    trainer.run()
    assert_same(whole, everything(trainer, ema))


def test_a_group_of_accumulated_gradients_is_finished_first(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options = {"accumulation_steps": 2, "player_intervals": {"generator": 2}, "precision": "fp16"}
    whole = _train_whole(make_trainer, tmp_path / "whole", **options)
    parts, stopped_after = _train_with_stop(make_trainer, tmp_path / "parts", 6, **options)
    assert stopped_after == 7
    assert_same(whole, parts)


@pytest.mark.parametrize("with_generator", [True, False])
def test_an_order_drawn_from_a_generator_is_drawn_again(
    make_trainer: MakeTrainer, tmp_path: Path, with_generator: bool
) -> None:
    def make(**options: Any) -> Any:
        trainer = make_trainer(**options)
        generator = torch.Generator().manual_seed(5) if with_generator else None
        loader = torch.utils.data.DataLoader(
            trainer.data_loader.dataset, batch_size=2, shuffle=True, generator=generator
        )
        return make_trainer(loader=loader, **options)

    whole = _train_whole(make, tmp_path / "whole")
    parts, _ = _train_with_stop(make, tmp_path / "parts", 8)
    assert_same(whole, parts)


def test_workers_survive_a_signal_to_all_processes_of_the_job(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def make(**options: Any) -> Any:
        loader = make_trainer(**options).data_loader
        loader = torch.utils.data.DataLoader(
            loader.dataset, batch_size=2, sampler=loader.sampler, num_workers=1, generator=torch.Generator()
        )
        return make_trainer(loader=loader, **options)

    whole = _train_whole(make, tmp_path / "whole")
    set_determinism(seed=0)
    trainer, checkpoint, _ = assemble(make, tmp_path / "parts", max_epochs=EPOCHS)
    checkpoint.start(trainer)

    def signal_all(engine: Any) -> None:
        for worker in engine._dataloader_iter._workers:
            os.kill(worker.pid, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    trainer.add_event_handler(Events.ITERATION_STARTED(once=7), signal_all)
    with pytest.raises(SystemExit):
        trainer.run()
    trainer, checkpoint, ema = assemble(make, tmp_path / "parts", max_epochs=EPOCHS)
    checkpoint.start(trainer, resume=True)
    trainer.run()
    assert_same(whole, everything(trainer, ema))


def test_ctrl_c_is_obeyed_where_it_is_asked_for(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = _train_whole(make_trainer, tmp_path / "whole")
    both = ("SIGTERM", "SIGINT")
    parts, _ = _train_with_stop(make_trainer, tmp_path / "parts", 7, name="SIGINT", stop_signals=both)
    assert_same(whole, parts)


def test_outside_of_a_training_signals_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignal(["SIGTERM", "SIGINT"])
    with stop:
        assert stop.received() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received() == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # again while the state is being saved
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    with StopSignal([]) as none:
        assert none.received() == ""


def test_an_unknown_signal_is_refused() -> None:
    with pytest.raises(ConfigError, match="'SIGSTOPP' is no signal"):
        StopSignal(["SIGSTOPP"])


@pytest.mark.slow
def test_all_processes_stop_when_one_is_told_to(tmp_path: Path, repository: Path) -> None:
    def run(folder: str, *arguments: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        script = str(repository / "tests" / "handlers" / "train_distributed.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
        done = subprocess.run(
            [*command, script, str(tmp_path / folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    run("whole")
    stopped = run("parts", "--stop-at", "4")
    assert stopped.count("stopped by SIGTERM in epoch 2, after 1 of 3 iterations") == 1
    assert not (tmp_path / "parts" / "rank0.pt").exists()
    run("parts", "--resume")
    for rank in (0, 1):
        whole, parts = (torch.load(tmp_path / folder / f"rank{rank}.pt") for folder in ("whole", "parts"))
        assert_same(whole, parts)

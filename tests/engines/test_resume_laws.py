"""Stopping and going on is bitwise the same as one training, for every objective and however it stops."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ignite.engine import Events

from monai_synth.errors import ConfigError
from tests.engines.resumable import MAE_HU, NUM_ITERATIONS, Training, differences
from tests.engines.tiny_objectives import BUILDERS

HAVE_STATE = ("usis", "cyclegan")


def _stop_in(training: Training, iteration: int) -> None:
    training.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=iteration), lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(SystemExit) as stop:
        training.run()
    assert stop.value.code == 0
    assert training.trainer.state.iteration == iteration


@pytest.mark.parametrize("name", BUILDERS)
def test_a_resumed_training_is_bitwise_the_same_as_one(name: str, tmp_path: Path) -> None:
    """Weights, optimisers, averages, history of images, turn counters, generators, order of cases, best so far."""
    whole = Training(name, tmp_path / "whole").run()
    expected, order = whole.everything(), whole.items.read
    assert (whole.best.value, whole.best.epoch) == (MAE_HU[2], 2)
    assert any(key.startswith(".objective") for key in expected) == (name in HAVE_STATE)

    # After an epoch, and in the middle of the last.
    first = Training(name, tmp_path / "epochs", max_epochs=2).run()
    # Of the unfinished part all starts otherwise: weights, generators, best so far.
    rest = Training(name, tmp_path / "epochs", seed=99)
    assert len(differences(expected, {**expected, **dict(first.everything())})) > 50
    assert differences(expected, rest.run(resume=True).everything()) == []
    assert _seen(first) + _seen(rest) == _seen(whole)

    first = Training(name, tmp_path / "middle")
    _stop_in(first, 2 * NUM_ITERATIONS + 2)
    rest = Training(name, tmp_path / "middle", seed=99).run(resume=True)
    assert differences(expected, rest.everything()) == []
    assert _seen(first) + _seen(rest) == order

    one, other = (pd.read_csv(tmp_path / folder / "history.csv") for folder in ("whole", "middle"))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))


def _seen(training: Training) -> list[str]:
    """Cases in the order of training and validation."""
    return training.items.read


@pytest.mark.parametrize("name", HAVE_STATE)
def test_an_objective_that_is_not_saved_is_named_and_would_be_noticed(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Training(name, tmp_path / "whole").run().everything()
    assert caplog.text == ""
    Training(name, tmp_path / "parts", max_epochs=1, without=("objective",)).run()
    assert re.search(r"checkpoint does not hold: objective (Usis|CycleGan), which counts or keeps images", caplog.text)
    parts = Training(name, tmp_path / "parts", seed=99, without=("objective",)).run(resume=True).everything()
    assert any(key.startswith(".players") for key in differences(whole, parts))


def test_players_and_optimisers_that_are_not_saved_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Training("pix2pix", tmp_path, without=("discriminator", "generator_optimizer"))
    assert "does not hold: player 'discriminator', optimiser of the generator." in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [({"precision": "fp16"}, "precision: fp32 before, fp16 now"), ({"clip_norm": 1.0}, "clip_norm: None before, 1.0")],
)
def test_another_arithmetic_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Training("pix2pix", tmp_path, max_epochs=1).run()
    other = Training("pix2pix", tmp_path, **change)
    with pytest.raises(ConfigError, match=message):
        other.checkpoint.start(other.trainer, resume=True)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_killed_within_an_epoch_goes_on_from_the_epoch_before(tmp_path: Path) -> None:
    whole = Training("pix2pix", tmp_path / "whole").run().everything()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked child cannot use the parent's thread pool
        killed = Training("pix2pix", tmp_path / "parts")
        killed.trainer.add_event_handler(
            Events.ITERATION_STARTED(once=NUM_ITERATIONS + 2), lambda _: os.kill(os.getpid(), signal.SIGKILL)
        )
        try:
            killed.run()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    rest = Training("pix2pix", tmp_path / "parts", seed=99)
    rest.checkpoint.start(rest.trainer, resume=True)
    assert rest.trainer.state.epoch == 1
    rest.trainer.run()
    assert differences(whole, rest.everything()) == []


def test_within_an_epoch_another_batch_size_or_number_of_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_in(Training("pix2pix", tmp_path), NUM_ITERATIONS + 1)
    other = Training("pix2pix", tmp_path, batch_size=3)
    with pytest.raises(ConfigError, match=r"batch size: 2 before, 3 now.*Resume with the same settings"):
        other.checkpoint.start(other.trainer, resume=True)
    monkeypatch.setattr("monai_synth.handlers.same_setup.idist.get_world_size", lambda: 2)
    other = Training("pix2pix", tmp_path)
    with pytest.raises(ConfigError, match=r"number of processes: 1 before, 2 now.*--initial_weights"):
        other.checkpoint.start(other.trainer, resume=True)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 1

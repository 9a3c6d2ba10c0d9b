"""A training that stops goes on exactly where it was, whatever stopped it."""

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from monai_synth.data import LabelTable
from monai_synth.errors import CheckpointError, ConfigError, DivergenceError
from monai_synth.handlers import is_true
from monai_synth.networks import PatchDiscriminator, UNetGenerator
from monai_synth.objectives import Pix2Pix
from tests.handlers.trainings import MakeTrainer, assemble, assert_same, everything


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_after_a_stop_is_bitwise_the_same(
    make_trainer: MakeTrainer, tmp_path: Path, precision: str
) -> None:
    trainer, checkpoint, ema = assemble(make_trainer, tmp_path / "whole", max_epochs=4, precision=precision)
    checkpoint.start(trainer)
    trainer.run()
    whole = everything(trainer, ema)

    set_determinism(seed=0)
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path / "parts", max_epochs=2, precision=precision)
    checkpoint.start(trainer)
    trainer.run()
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # noqa: NPY002 - a new process would differ too
    trainer, checkpoint, ema = assemble(make_trainer, tmp_path / "parts", max_epochs=4, precision=precision)
    checkpoint.start(trainer, resume="true")
    assert trainer.state.epoch == 2
    trainer.run()
    resumed = everything(trainer, ema)

    assert_same(whole, resumed)


def test_a_finished_training_is_left_as_it_is(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    before = checkpoint.file.read_bytes()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    checkpoint.start(trainer, resume=True)
    trainer.run()
    assert checkpoint.file.read_bytes() == before


def _train_and_die_in_save(make_trainer: MakeTrainer, folder: Path, fatal_save: int) -> None:
    """Ends its own process with SIGKILL while checkpoint number ``fatal_save`` is half written."""
    count = 0
    genuine = torch.save

    def save(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == fatal_save:
            file.write(b"half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(obj, file, *args, **kwargs)

    torch.save = save
    torch.set_num_threads(1)
    trainer, checkpoint, _ = assemble(make_trainer, folder, max_epochs=4)
    checkpoint.start(trainer)
    trainer.run()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_killed_while_saving_can_be_resumed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child cannot use the parent's thread pool
    try:
        child = multiprocessing.get_context("fork").Process(
            target=_train_and_die_in_save, args=(make_trainer, tmp_path, 3)
        )
        child.start()
        child.join(60)
    finally:
        torch.set_num_threads(threads)
    assert child.exitcode == -signal.SIGKILL
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=4)
    checkpoint.start(trainer, resume=True)
    assert trainer.state.epoch == 2
    trainer.run()
    assert trainer.state.epoch == 4


def test_a_damaged_newest_file_falls_back_to_the_one_before(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer)
    trainer.run()
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:1000])
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer, resume=True)
    assert trainer.state.epoch == 2
    checkpoint.previous_file.unlink()
    with pytest.raises(CheckpointError, match="No checkpoint can be resumed.*truncated"):
        checkpoint.start(trainer, resume=True)


def test_an_earlier_training_is_not_overwritten_unasked(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    with pytest.raises(ConfigError, match="holds no last.pt"):
        checkpoint.start(trainer, resume=True)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    with pytest.raises(ConfigError, match="--resume true.*--overwrite true"):
        checkpoint.start(trainer)
    checkpoint.start(trainer, overwrite="true")
    assert trainer.state.epoch == 0


def test_another_number_of_processes_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    monkeypatch.setattr("monai_synth.handlers.same_setup.idist.get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"number of processes: 1 before, 2 now.*--initial_weights"):
        checkpoint.start(trainer, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulation_steps": 2}, "accumulation_steps: 1 before, 2 now"),
        ({"player_intervals": {"discriminator": 2}}, "player_intervals: {'discriminator': 1, 'generator': 1} before"),
    ],
)
def test_other_turns_are_refused(
    make_trainer: MakeTrainer, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, **change)
    with pytest.raises(ConfigError, match=message):
        checkpoint.start(trainer, resume=True)


def test_weights_that_are_not_finite_are_never_saved(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=1)
    checkpoint.start(trainer)
    trainer.run()
    before = checkpoint.file.read_bytes()
    with torch.no_grad():
        next(trainer.objective.players["generator"].parameters()).fill_(torch.inf)
    with pytest.raises(DivergenceError, match=r"Weights of the generator are not finite.*last.pt is from before"):
        checkpoint.save(trainer)
    assert checkpoint.file.read_bytes() == before


def test_another_batch_size_or_network_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, batch_size=3)
    with pytest.raises(ConfigError, match="batch size: 2 before, 3 now"):
        checkpoint.start(trainer, resume=True)
    wider = Pix2Pix(UNetGenerator(channels=6, num_downs=3), PatchDiscriminator(in_channels=2, channels=4, num_layers=1))
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, objective=wider)
    with pytest.raises(CheckpointError, match="'generator' does not fit UNetGenerator: 18 of another shape"):
        checkpoint.start(trainer, resume=True)


def test_other_patients_or_settings_are_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    record = {"manifest": {"patients": {"train": ["a", "b"], "val": ["c"]}}, "settings": {"learning_rate": 0.1}}
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=record)
    checkpoint.start(trainer)
    trainer.run()
    others = {**record, "manifest": {"patients": {"train": ["a", "d"], "val": ["c"]}}}
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=others)
    with pytest.raises(ConfigError, match="training patients: 1 gone, 1 new, such as 'b'"):
        checkpoint.start(trainer, resume=True)
    faster = {**record, "settings": {"learning_rate": 0.2}}
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=faster)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.1 before, 0.2 now"):
        checkpoint.start(trainer, resume=True)


def test_another_order_of_labels_is_refused_but_not_of_roles(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    roles = {"condition": "labels", "target": "ct"}
    labels = {"0": "background", "255": "lesion"}
    record = {"roles": roles, "settings": {"labels": LabelTable(labels).to_dict(), "patch_size": (32, 32)}}
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=record)
    checkpoint.start(trainer)
    trainer.run()
    numbers = {0: "background", 255: "lesion"}
    same = {"roles": dict(reversed(roles.items())), "settings": {"labels": LabelTable(numbers).to_dict()}}
    same["settings"]["patch_size"] = [32, 32]
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=same, max_epochs=3)
    checkpoint.start(trainer, resume=True)
    turned = LabelTable(dict(reversed(numbers.items()))).to_dict()
    other = {**record, "settings": {**record["settings"], "labels": turned}}
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, record=other)
    with pytest.raises(ConfigError, match="labels: 0 background, 255 lesion before, 255 lesion, 0 background now"):
        checkpoint.start(trainer, resume=True)


def test_weights_alone_cannot_be_resumed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "last.pt")
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path)
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        checkpoint.start(trainer, resume=True)


def test_a_folder_that_cannot_be_written_is_named_before_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path / "file" / "models")
    with pytest.raises(ConfigError, match=r"Nothing can be written into .*--output_dir"):
        checkpoint.start(trainer)


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("True", True), (True, True), ("false", False), ("0", False)]
)
def test_switches_are_read_as_a_command_line_writes_them(word: bool | str, value: bool) -> None:
    assert is_true(word, "resume") is value


def test_a_switch_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="resume='maybe'"):
        is_true("maybe", "resume")

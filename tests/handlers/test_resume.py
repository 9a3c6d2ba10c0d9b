"""A training that stops goes on exactly where it was, whatever stopped it."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.utils import set_determinism

from monai_synth.engines import SynthesisTrainer, linear_decay
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.handlers import EMA, TrainingCheckpoint, is_true
from monai_synth.networks import PatchDiscriminator, UNetGenerator
from monai_synth.objectives import Pix2Pix

MakeTrainer = Callable[..., SynthesisTrainer]


def _assemble(
    make_trainer: MakeTrainer, folder: Path, *, record: dict[str, Any] | None = None, **options: Any
) -> tuple[SynthesisTrainer, TrainingCheckpoint, EMA]:
    trainer = make_trainer(**options)
    players = trainer.objective.players
    ema = EMA(players["generator"], decay=0.9)
    schedules = {
        f"{name}_schedule": torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay(4))
        for name, optimizer in trainer.optimizers.items()
    }
    ema.attach(trainer)
    for schedule in schedules.values():
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _, schedule=schedule: schedule.step())
    parts = {**players, **{f"{n}_optimizer": o for n, o in trainer.optimizers.items()}, **schedules, "ema": ema}
    checkpoint = TrainingCheckpoint(folder, parts, record=record)
    checkpoint.attach(trainer)
    return trainer, checkpoint, ema


def _everything(trainer: SynthesisTrainer, ema: EMA) -> dict[str, torch.Tensor]:
    players = trainer.objective.players
    flat = {f"{name}.{key}": value for name, player in players.items() for key, value in player.state_dict().items()}
    flat |= {f"ema.{key}": value for key, value in ema.network.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            flat |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    flat["random"] = torch.tensor([torch.rand(1).item(), np.random.rand(), random.random()])  # noqa: NPY002
    return flat


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_after_a_stop_is_bitwise_the_same(
    make_trainer: MakeTrainer, tmp_path: Path, precision: str
) -> None:
    trainer, checkpoint, ema = _assemble(make_trainer, tmp_path / "whole", max_epochs=4, precision=precision)
    checkpoint.start(trainer)
    trainer.run()
    whole = _everything(trainer, ema)

    set_determinism(seed=0)
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path / "parts", max_epochs=2, precision=precision)
    checkpoint.start(trainer)
    trainer.run()
    torch.manual_seed(99), np.random.seed(99), random.seed(99)  # noqa: NPY002 - a new process would differ too
    trainer, checkpoint, ema = _assemble(make_trainer, tmp_path / "parts", max_epochs=4, precision=precision)
    checkpoint.start(trainer, resume="true")
    assert trainer.state.epoch == 2
    trainer.run()
    resumed = _everything(trainer, ema)

    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_a_finished_training_is_left_as_it_is(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    before = checkpoint.file.read_bytes()
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
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
    trainer, checkpoint, _ = _assemble(make_trainer, folder, max_epochs=4)
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
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, max_epochs=4)
    checkpoint.start(trainer, resume=True)
    assert trainer.state.epoch == 2
    trainer.run()
    assert trainer.state.epoch == 4


def test_a_damaged_newest_file_falls_back_to_the_one_before(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer)
    trainer.run()
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:1000])
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer, resume=True)
    assert trainer.state.epoch == 2
    checkpoint.previous_file.unlink()
    with pytest.raises(CheckpointError, match="No checkpoint can be resumed.*truncated"):
        checkpoint.start(trainer, resume=True)


def test_an_earlier_training_is_not_overwritten_unasked(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
    with pytest.raises(ConfigError, match="holds no last.pt"):
        checkpoint.start(trainer, resume=True)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
    with pytest.raises(ConfigError, match="--resume true.*--overwrite true"):
        checkpoint.start(trainer)
    checkpoint.start(trainer, overwrite="true")
    assert trainer.state.epoch == 0


def test_another_batch_size_or_network_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
    checkpoint.start(trainer)
    trainer.run()
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, batch_size=3)
    with pytest.raises(ConfigError, match="batch size: 2 before, 3 now"):
        checkpoint.start(trainer, resume=True)
    wider = Pix2Pix(UNetGenerator(channels=6, num_downs=3), PatchDiscriminator(in_channels=2, channels=4, num_layers=1))
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, objective=wider)
    with pytest.raises(CheckpointError, match="'generator' does not fit UNetGenerator: 18 of another shape"):
        checkpoint.start(trainer, resume=True)


def test_other_patients_or_settings_are_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    record = {"manifest": {"patients": {"train": ["a", "b"], "val": ["c"]}}, "settings": {"learning_rate": 0.1}}
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, record=record)
    checkpoint.start(trainer)
    trainer.run()
    others = {**record, "manifest": {"patients": {"train": ["a", "d"], "val": ["c"]}}}
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, record=others)
    with pytest.raises(ConfigError, match="training patients: 1 gone, 1 new, such as 'b'"):
        checkpoint.start(trainer, resume=True)
    faster = {**record, "settings": {"learning_rate": 0.2}}
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path, record=faster)
    with pytest.raises(ConfigError, match=r"learning_rate: 0.1 before, 0.2 now"):
        checkpoint.start(trainer, resume=True)


def test_weights_alone_cannot_be_resumed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "last.pt")
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path)
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        checkpoint.start(trainer, resume=True)


def test_a_folder_that_cannot_be_written_is_named_before_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    trainer, checkpoint, _ = _assemble(make_trainer, tmp_path / "file" / "models")
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

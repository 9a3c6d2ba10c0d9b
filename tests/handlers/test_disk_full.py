"""A disk that is full, or a folder that has become unwritable, costs the newest state only, and is named."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from monai_synth.checkpoints import save_file
from monai_synth.errors import CheckpointError
from monai_synth.handlers import History
from tests.handlers.trainings import MakeTrainer, assemble


@contextmanager
def _files_at_most(num_bytes: int) -> Iterator[None]:
    """To a writer a limit of the size of files is what a full disk is: an error in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_does_not_fit_is_named_and_the_old_one_stays(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_file({"a": torch.zeros(3)}, file)
    with _files_at_most(10_000), pytest.raises(CheckpointError, match=r"last.pt cannot be written: .*File too large"):
        save_file({"a": torch.zeros(100_000)}, file)
    assert torch.equal(torch.load(file)["a"], torch.zeros(3))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_training_on_a_full_disk_can_be_resumed_from_the_epoch_before(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer)
    trainer.state.max_epochs = 2
    trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer, resume=True)
    message = (
        r"state after iteration 15 \(epoch 3\) could not be saved: .*last.pt.new cannot be written: "
        r".*/last.pt is complete. Make room, then continue with --resume true"
    )
    with _files_at_most(20_000), pytest.raises(CheckpointError, match=message):
        trainer.run()
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=3)
    checkpoint.start(trainer, resume=True)
    assert trainer.state.epoch == 2
    trainer.run()
    assert torch.load(checkpoint.file, weights_only=True)["epoch"] == 3


def test_a_disk_that_says_so_only_when_the_file_is_closed_leaves_the_old_state(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks are allocated late, as on NFS, fsync is the first to know."""
    trainer, checkpoint, _ = assemble(make_trainer, tmp_path, max_epochs=1)
    checkpoint.start(trainer)
    trainer.run()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("monai_synth.checkpoints.files.os.fsync", full)
    message = (
        r"could not be saved: .*last.pt.new cannot be written: .*No space left on device.*last.pt is complete. Make"
    )
    with pytest.raises(CheckpointError, match=message):
        checkpoint.save(trainer)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_history_that_cannot_be_written_is_named(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(max_epochs=1)
    (tmp_path / "file").write_text("not a folder")
    History(tmp_path / "file" / "history.csv").attach(trainer)
    with pytest.raises(CheckpointError, match=r"history.csv cannot be written"):
        trainer.run()

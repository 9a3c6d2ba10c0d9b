"""Losses, metrics and previews in TensorBoard, through MONAI's handler."""

import sys
from pathlib import Path
from typing import Any

import pytest
from monai.handlers import TensorBoardStatsHandler

from monai_synth.errors import ConfigError
from monai_synth.handlers import History, named_losses, open_tensorboard


class _Written:
    def __init__(self) -> None:
        self.scalars: dict[str, dict[int, float]] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.setdefault(tag, {})[step] = float(value)

    def flush(self) -> None:
        pass


def _train(make_trainer: Any, folder: Path, writer: Any) -> Any:
    trainer = make_trainer(max_epochs=2, player_intervals={"generator": 2})
    History(folder / "history.csv").attach(trainer)
    # The means of an epoch would stand under the same names, at the number of the epoch.
    TensorBoardStatsHandler(writer, output_transform=named_losses, epoch_log=False).attach(trainer)
    trainer.run()
    return trainer


def test_every_term_of_every_iteration_arrives(make_trainer: Any, tmp_path: Path) -> None:
    writer = _Written()
    trainer = _train(make_trainer, tmp_path, writer)
    assert list(writer.scalars["d_real"]) == list(range(1, 11))
    assert list(writer.scalars["g_l1"]) == [2, 4, 6, 8, 10]
    assert writer.scalars["d_real"][10] == pytest.approx(trainer.state.output["d_real"].item())
    assert "loss" in writer.scalars


def test_a_log_is_written(make_trainer: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    writer = open_tensorboard(tmp_path / "log")
    _train(make_trainer, tmp_path, writer)
    writer.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    assert {"d_real", "d_fake", "g_gan", "g_l1", "loss"} <= set(log.Tags()["scalars"])


def test_without_tensorboard_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"need the package tensorboard .*pip install 'monai-synth\[tracking\]'"):
        open_tensorboard(tmp_path)


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_synth.handlers.tensorboard.idist.get_rank", lambda: 1)
    writer = open_tensorboard(tmp_path / "log")
    writer.add_scalar("a", 1.0, 1)
    writer.flush()
    writer.close()
    assert not (tmp_path / "log").exists()

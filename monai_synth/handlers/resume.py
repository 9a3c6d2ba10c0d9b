"""Everything a training needs to go on exactly where it stopped."""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_synth.checkpoints import load_file, save_file
from monai_synth.errors import CheckpointError, ConfigError

_FORMAT = 1


class TrainingCheckpoint:
    """Saves all moving parts after each epoch, and restores them.

    Two files are kept: ``last.pt`` and, before it, ``previous.pt``. Each is written beside its name and then
    renamed, so a process killed while saving leaves at least one complete file; ``start`` takes the newest that can
    be read.

    Attach it after all other handlers: what they change at the end of an epoch belongs to the saved state.

    Args:
        directory: where the files are kept.
        parts: whatever has ``state_dict`` and ``load_state_dict``: networks, optimisers, schedulers, EMA,
            best-so-far. Networks wrapped for distributed training are saved unwrapped, so that one process can
            continue what several began.
        interval: epochs between saves; the last epoch is always saved.
    """

    def __init__(self, directory: str | Path, parts: Mapping[str, Any], *, interval: int = 1) -> None:
        self.directory = Path(directory)
        self.parts = {name: getattr(p, "module", p) if isinstance(p, nn.Module) else p for name, p in parts.items()}
        self.interval = interval
        self._pending_rng: dict[str, Any] | None = None

    @property
    def file(self) -> Path:
        """The newest checkpoint."""
        return self.directory / "last.pt"

    @property
    def previous_file(self) -> Path:
        """The checkpoint before it."""
        return self.directory / "previous.pt"

    def attach(self, engine: Engine) -> None:
        """Save at the end of epochs; restore random states when the first resumed epoch starts."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._restore_rng)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_if_due)

    def start(self, engine: Any, *, resume: bool | str = False, overwrite: bool | str = False) -> None:
        """Prepare ``engine`` to train from the beginning or from the newest checkpoint.

        Args:
            engine: the trainer, before it runs.
            resume: continue; with no checkpoint there, a ConfigError says so.
            overwrite: begin anew although a checkpoint is there.

        Raises:
            ConfigError: nothing to resume, something that would be lost, a folder that cannot be written, or a training
                that does not fit the checkpoint.
            CheckpointError: no readable checkpoint, or one of other networks.
        """
        self._check_writable()
        found = [file for file in (self.file, self.previous_file) if file.exists()]
        if is_true(resume, "resume"):
            if not found:
                raise ConfigError(f"resume is on, but {self.directory} holds no last.pt. Start without --resume first.")
            self._restore(engine, self._load_newest(found))
        elif found and not is_true(overwrite, "overwrite"):
            raise ConfigError(
                f"{found[0]} holds an earlier training, which would be lost. Continue it with --resume true, choose "
                "another --output_dir, or replace it with --overwrite true."
            )

    def save(self, engine: Any) -> None:
        """Write the state of ``engine`` and all parts now."""
        rng = idist.all_gather(_capture_rng()) if idist.get_world_size() > 1 else [_capture_rng()]
        if idist.get_rank() > 0:
            return
        state = {
            "format": _FORMAT,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "setup": _setup(engine),
            "rng": list(rng),
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        part = self.file.with_suffix(".pt.new")
        save_file(state, part)
        if self.file.exists():
            os.replace(self.file, self.previous_file)
        os.replace(part, self.file)

    def _save_if_due(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.save(engine)

    def _check_writable(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"Cannot write checkpoints into {self.directory} ({error.strerror or error}). "
                "Give a folder of yours with --output_dir."
            ) from error

    def _load_newest(self, found: list[Path]) -> dict[str, Any]:
        problems = []
        for file in found:
            try:
                state = load_file(file)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if not isinstance(state, dict) or state.get("format") != _FORMAT:
                problems.append(
                    f"{file} is not a training checkpoint of this version (weights alone cannot be resumed)."
                )
                continue
            return state
        raise CheckpointError("No checkpoint can be resumed: " + " ".join(problems))

    def _restore(self, engine: Any, state: dict[str, Any]) -> None:
        _refuse_other_setup(state["setup"], _setup(engine))
        if differing := sorted(self.parts.keys() ^ state["parts"].keys()):
            raise CheckpointError(
                f"The checkpoint and this training do not have the same parts (differing: {', '.join(differing)}). "
                "Resume with the configuration that began the training."
            )
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state["parts"][name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise CheckpointError(
                    f"The checkpoint's {name!r} does not fit this training: {str(error).splitlines()[0]} It was made "
                    "with another network or optimiser; resume with the configuration that began the training."
                ) from error
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        self._pending_rng = state["rng"][idist.get_rank()]

    def _restore_rng(self, engine: Engine) -> None:
        if self._pending_rng is not None:
            _apply_rng(self._pending_rng)
            self._pending_rng = None


def is_true(value: bool | str, name: str) -> bool:
    """A switch as a command line gives it: ``--resume true`` arrives as a word, which Python always calls true.

    Raises:
        ConfigError: for a word that is neither true nor false.
    """
    word = str(value).lower()
    if word in ("true", "1", "yes"):
        return True
    if word in ("false", "0", "no"):
        return False
    raise ConfigError(f"{name}={value!r} is neither true nor false.")


def _setup(engine: Any) -> dict[str, int]:
    """What must be the same before and after a resume, for the same data to come in the same order."""
    loader = engine.data_loader
    return {
        "batch size": getattr(loader, "batch_size", None) or 0,
        "number of training slices": len(getattr(loader, "dataset", ())),
        "number of processes": idist.get_world_size(),
        "accumulation_steps": engine.accumulation_steps,
    }


def _refuse_other_setup(saved: dict[str, int], current: dict[str, int]) -> None:
    changed = [
        f"{name}: {saved.get(name)} before, {value} now" for name, value in current.items() if saved.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"This training cannot be continued exactly ({'; '.join(changed)}). Resume with the same settings, or "
            "start a new training in another --output_dir."
        )


def _capture_rng() -> dict[str, Any]:
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - MONAI draws from this one
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _apply_rng(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])

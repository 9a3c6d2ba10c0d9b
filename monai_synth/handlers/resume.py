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
from torch.optim.lr_scheduler import LambdaLR

from monai_synth.checkpoints import load_file, load_state, require_writable, save_file
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
        record: what the training is, see ``describe_run``; a resume with other patients, roles, intensities, spacing or
            settings is refused.
    """

    def __init__(
        self,
        directory: str | Path,
        parts: Mapping[str, Any],
        *,
        interval: int = 1,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.record = dict(record or {})
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
        require_writable(self.directory)
        if idist.get_rank() == 0:
            for draft in self.directory.glob(".*.tmp"):  # of a process that was killed while saving
                draft.unlink(missing_ok=True)
        found = [file for file in (self.file, self.previous_file) if file.exists()]
        if is_true(resume, "resume"):
            if not found:
                raise ConfigError(f"resume is on, but {self.directory} holds no last.pt. Start without --resume first.")
            self._restore(engine, self._load_newest(found))
            if engine.state.epoch >= engine.state.max_epochs and idist.get_rank() == 0:
                print(f"complete: all {engine.state.max_epochs} epochs are trained; --epochs N trains on")  # noqa: T201
        elif is_true(overwrite, "overwrite"):
            self._remove_earlier()
        elif found:
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
            "setup": self._setup(engine),
            "rng": list(rng),
            "grad_scaler": engine.grad_scaler.state_dict(),
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

    def _remove_earlier(self) -> None:
        """Take away all of an earlier training, so that nothing can be resumed or evaluated that is not of this one."""
        if idist.get_rank() == 0:
            for name in ("last.pt", "previous.pt", "model.pt", "model.json"):
                (self.directory / name).unlink(missing_ok=True)

    def _setup(self, engine: Any) -> dict[str, Any]:
        """What must be the same before and after a resume, for the same training to go on."""
        loader = engine.data_loader
        patients = self.record.get("manifest", {}).get("patients", {})
        return {
            "batch size": getattr(loader, "batch_size", None) or 0,
            "number of training slices": len(getattr(loader, "dataset", ())),
            "number of processes": idist.get_world_size(),
            "accumulation_steps": engine.accumulation_steps,
            "training patients": patients.get("train", []),
            "validation patients": patients.get("val", []),
            **{name: self.record.get(name) for name in ("roles", "intensity", "spacing_mm", "seed", "precision")},
            **self.record.get("settings", {}),
        }

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
        _refuse_other_setup(state["setup"], self._setup(engine))
        if differing := sorted(self.parts.keys() ^ state["parts"].keys()):
            raise CheckpointError(
                f"The checkpoint and this training do not have the same parts (differing: {', '.join(differing)}). "
                "Resume with the configuration that began the training."
            )
        for name, part in self.parts.items():
            try:
                if isinstance(part, nn.Module):
                    load_state(part, state["parts"][name], source=f"the checkpoint's {name!r}")
                else:
                    part.load_state_dict(state["parts"][name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise CheckpointError(
                    f"The checkpoint's {name!r} does not fit this training: {str(error).splitlines()[0]} It was made "
                    "with another network or optimiser; resume with the configuration that began the training."
                ) from error
        for part in self.parts.values():
            if isinstance(part, LambdaLR):
                _apply_schedule(part)
        if engine.grad_scaler.is_enabled():
            engine.grad_scaler.load_state_dict(state["grad_scaler"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        self._pending_rng = state["rng"][idist.get_rank()]

    def _restore_rng(self, engine: Engine) -> None:
        if self._pending_rng is not None:
            _apply_rng(self._pending_rng)
            self._pending_rng = None


def _apply_schedule(scheduler: LambdaLR) -> None:
    """Set the rate that the schedule has now; the stored one belongs to the number of epochs that was planned then."""
    epoch, pairs = scheduler.last_epoch, zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * factor(epoch) for base, factor in pairs]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


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
    raise ConfigError(f"{name}={value!r} is neither true nor false. Say --{name} true or --{name} false.")


def _refuse_other_setup(saved: dict[str, Any], current: dict[str, Any]) -> None:
    changed = [_difference(name, saved.get(name), value) for name, value in current.items() if saved.get(name) != value]
    if changed:
        raise ConfigError(
            f"This training cannot be continued exactly ({'; '.join(changed)}). Resume with the same settings, or "
            "start a new training in another --output_dir."
        )


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(item, str) for item in [*before, *now]):
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        return f"{name}: {len(gone)} gone, {len(new)} new, such as {(gone + new)[0]!r}"
    return f"{name}: {before} before, {now} now"


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

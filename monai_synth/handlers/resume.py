"""Everything a training needs to go on exactly where it stopped."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from monai_synth.checkpoints import load_file, load_state, require_writable, save_file, unwrapped
from monai_synth.errors import CheckpointError, ConfigError, DivergenceError
from monai_synth.handlers.random_state import apply_random_state, capture_random_state
from monai_synth.handlers.same_setup import describe_setup, refuse_other_setup, warn_of_missing_parts
from monai_synth.handlers.stop_signal import StopSignal

_FORMAT = 2


class TrainingCheckpoint:
    """Saves all moving parts after each epoch, and restores them.

    Two files are kept: ``last.pt`` and, before it, ``previous.pt``. Each is written beside its name and then
    renamed, so a process killed while saving, or a full disk, leaves at least one complete file; ``start`` takes the
    newest that can be read. Weights that are not finite are never saved.

    A signal to stop (SIGTERM, as a preemption and ``scancel`` send it) is obeyed after the running iteration, or the
    running group of accumulated gradients: the state is saved and the process ends with exit code 0. A training that
    is resumed in the middle of an epoch takes the batches that this epoch has left, in the same order, without loading
    the others. That is exact, bit by bit on a CPU, if what a data set gives depends on epoch and index alone, as in
    :class:`monai_synth.data.SliceDataset`; random transforms that draw from the generators of worker processes begin
    anew. During a validation the signal waits for its end, so ask for a margin: ``sbatch --signal=TERM@300``, with the
    training started by ``srun`` (the shell of the batch script does not pass signals on; ``torchrun`` does, but gives
    its processes 30 s and then itself ends with an error). If one of several processes is told, all stop.

    Attach it after all other handlers: what they change at the end of an iteration belongs to the saved state.

    Args:
        directory: where the files are kept.
        parts: whatever has ``state_dict`` and ``load_state_dict``: networks, optimisers, schedulers, EMA, objectives
            that count or keep images, history, best-so-far, early stop. What ``DistributedDataParallel`` and
            ``torch.compile`` put around a network is taken off.
        interval: epochs between saves; the last epoch is always saved.
        record: what the training is, see ``describe_run``; a resume with other patients, roles, intensities, spacing or
            settings is refused, and so is one with another number of processes or another batch size.
        stop_signals: signals to obey; ``()`` leaves them all as they are, ``("SIGTERM", "SIGINT")`` obeys Ctrl-C too.
    """

    def __init__(
        self,
        directory: str | Path,
        parts: Mapping[str, Any],
        *,
        interval: int = 1,
        record: Mapping[str, Any] | None = None,
        stop_signals: Sequence[str] = ("SIGTERM",),
    ) -> None:
        self.record = dict(record or {})
        self.directory = Path(directory)
        self.parts = {name: unwrapped(p) if isinstance(p, nn.Module) else p for name, p in parts.items()}
        self.interval = interval
        self.stop_signal = StopSignal(stop_signals)
        self._pending: dict[str, Any] | None = None
        self._epoch_start: dict[str, Any] | None = None

    @property
    def file(self) -> Path:
        """The newest checkpoint."""
        return self.directory / "last.pt"

    @property
    def previous_file(self) -> Path:
        """The checkpoint before it."""
        return self.directory / "previous.pt"

    def attach(self, engine: Any) -> None:
        """Save at the end of epochs and on a signal; restore random states when the first resumed epoch starts.

        Players, optimisers or an objective with a state that are not among the parts are named in a warning.
        """
        warn_of_missing_parts(engine, self.parts)
        engine.stop_signal = self.stop_signal
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_within_epoch)
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
            self._restore(engine, *self._load_newest(found))
            if engine.state.epoch >= engine.state.max_epochs and idist.get_rank() == 0:
                print(f"complete: all {engine.state.max_epochs} epochs are trained; --epochs N trains on")  # noqa: T201
            elif idist.get_rank() == 0:
                print(f"going on from {engine.state.last_checkpoint}, after {_place(engine)}", flush=True)  # noqa: T201
        elif is_true(overwrite, "overwrite"):
            self._remove_earlier()
        elif found:
            raise ConfigError(
                f"{found[0]} holds an earlier training, which would be lost. Continue it with --resume true, choose "
                "another --output_dir, or replace it with --overwrite true."
            )

    def save(self, engine: Any, *, within_epoch: bool = False) -> None:
        """Write the state of ``engine`` and all parts now.

        Args:
            engine: the trainer.
            within_epoch: after an iteration of the running epoch, instead of after an epoch.

        Raises:
            DivergenceError: if weights are not finite.
            CheckpointError: if the file cannot be written; the checkpoint before is unchanged.
        """
        self._refuse_nonfinite_weights(engine)
        random_state = {
            "now": capture_random_state(_loader_generator(engine)),
            "epoch_start": self._epoch_start if within_epoch else None,
        }
        random_states = idist.all_gather(random_state) if idist.get_world_size() > 1 else [random_state]
        if idist.get_rank() == 0:
            self._write(
                {
                    "format": _FORMAT,
                    "epoch": engine.state.epoch - within_epoch,
                    "iteration": engine.state.iteration,
                    "batches_done": engine.state.iteration % engine.state.epoch_length if within_epoch else 0,
                    "setup": describe_setup(engine, self.record),
                    "rng": list(random_states),
                    "grad_scaler": engine.grad_scaler.state_dict(),
                    "parts": {name: part.state_dict() for name, part in self.parts.items()},
                },
                engine,
            )
        engine.state.last_checkpoint = self.file

    def _write(self, state: dict[str, Any], engine: Any) -> None:
        draft = self.file.with_suffix(".pt.new")
        try:
            save_file(state, draft)
        except CheckpointError as error:
            before = f" {self.file} is complete." if self.file.exists() else ""
            raise CheckpointError(
                f"The state after iteration {engine.state.iteration} (epoch {engine.state.epoch}) could not be saved: "
                f"{error}{before} Make room, then continue with --resume true."
            ) from error
        if self.file.exists():
            os.replace(self.file, self.previous_file)
        os.replace(draft, self.file)

    def _save_if_due(self, engine: Any) -> None:
        name, epoch = self.stop_signal.received(), engine.state.epoch
        is_last = epoch == engine.state.max_epochs or bool(engine.should_terminate)
        if name or is_last or epoch % self.interval == 0:
            self.save(engine)
        if name:
            self._stop(engine, name, "")

    def _stop_within_epoch(self, engine: Any) -> None:
        done, length = engine.state.iteration % engine.state.epoch_length, engine.state.epoch_length
        # A group of accumulated gradients is finished first; after the last batch the end of the epoch follows.
        if not engine.state.is_step or done == 0:
            return
        if name := self.stop_signal.received():
            self.save(engine, within_epoch=True)
            self._stop(engine, name, f", after {done} of {length} iterations")

    def _stop(self, engine: Any, name: str, where: str) -> None:
        engine.state.stopped_by = name
        engine.terminate()
        if idist.get_rank() == 0:
            print(  # noqa: T201 - whoever reads the log of a stopped job looks for this
                f"stopped by {name} in epoch {engine.state.epoch}{where}; the exact state is in {self.file}. The same "
                "command with --resume true goes on from there.",
                flush=True,
            )

    def _refuse_nonfinite_weights(self, engine: Any) -> None:
        for name, part in self.parts.items():
            if not isinstance(part, nn.Module):
                continue
            tensors = [value for value in part.state_dict().values() if value.is_floating_point()]
            if tensors and not torch.stack([torch.isfinite(value).all() for value in tensors]).all():
                before = f"{self.file} is from before." if self.file.exists() else "No checkpoint was saved before."
                raise DivergenceError(
                    f"Weights of the {name} are not finite at epoch {engine.state.epoch}, iteration "
                    f"{engine.state.iteration}; they are not saved. "
                    f"{before} Lower the learning rate, set clip_norm, or use precision='fp32'."
                )

    def _remove_earlier(self) -> None:
        """Take away all of an earlier training, so that nothing can be resumed or evaluated that is not of this one."""
        if idist.get_rank() == 0:
            for name in ("last.pt", "previous.pt", "model.pt", "model.json"):
                (self.directory / name).unlink(missing_ok=True)

    def _load_newest(self, found: list[Path]) -> tuple[dict[str, Any], Path]:
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
            return state, file
        raise CheckpointError("No checkpoint can be resumed: " + " ".join(problems))

    def _restore(self, engine: Any, state: dict[str, Any], file: Path) -> None:
        refuse_other_setup(state["setup"], describe_setup(engine, self.record))
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
        engine.state.last_checkpoint = file
        self._pending = state["rng"][idist.get_rank()]
        if state["batches_done"]:
            now, generator = self._pending["now"], _loader_generator(engine)
            engine.skip_batches(state["batches_done"], then=lambda: apply_random_state(now, generator))

    def _start_epoch(self, engine: Any) -> None:
        generator = _loader_generator(engine)
        if self._pending is not None:
            # Within an epoch, first as it was at its start, where the order of the batches may be drawn; the present
            # state follows when the batches that were seen have been skipped.
            apply_random_state(self._pending["epoch_start"] or self._pending["now"], generator)
            self._pending = None
        self._epoch_start = capture_random_state(generator)


def _loader_generator(engine: Any) -> torch.Generator | None:
    generator = getattr(engine.data_loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


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


def _place(engine: Any) -> str:
    """How far a restored training is."""
    epoch, length = engine.state.epoch, engine.state.epoch_length
    done = 0 if not length else engine.state.iteration - epoch * length
    return f"epoch {epoch}" + (f" and {done} of {length} iterations" if done > 0 else "")

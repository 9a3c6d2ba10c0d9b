"""What must be the same before and after a resume, for the same training to go on."""

import logging
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
from torch import nn

from monai_synth.checkpoints import in_words, is_same_setting
from monai_synth.errors import ConfigError

_LOGGER = logging.getLogger(__name__)
# Mappings whose order means nothing; that of a setting may be the order of channels.
_UNORDERED = ("roles", "intensity", "player_intervals")


def describe_setup(engine: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides which batches come in which order and what is done with them.

    Args:
        engine: the trainer.
        record: see :func:`monai_synth.handlers.describe_run`; may be empty.
    """
    loader = engine.data_loader
    patients = record.get("manifest", {}).get("patients", {})
    return {
        "batch size": getattr(loader, "batch_size", None) or 0,
        "number of training slices": len(getattr(loader, "dataset", ())),
        "batches per epoch": engine.state.epoch_length,
        "number of processes": idist.get_world_size(),
        "accumulation_steps": engine.accumulation_steps,
        "player_intervals": engine.player_intervals,
        "training patients": patients.get("train", []),
        "validation patients": patients.get("val", []),
        "precision": engine.precision,
        "clip_norm": engine.clip_norm,
        **{name: record.get(name) for name in ("roles", "intensity", "spacing_mm", "seed")},
        **record.get("settings", {}),
    }


def refuse_other_setup(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Stop before a training goes on as another one.

    Raises:
        ConfigError: naming everything that differs, with both values.
    """
    changed = [_difference(name, saved.get(name), now) for name, now in current.items() if _differs(name, saved, now)]
    if changed:
        raise ConfigError(
            f"This training cannot be continued exactly ({'; '.join(changed)}). Resume with the same settings, or "
            "start a new training in another --output_dir, perhaps from these weights with --initial_weights."
        )


def warn_of_missing_parts(engine: Any, parts: Mapping[str, Any]) -> None:
    """Name what moves in a training and would begin anew after a resume.

    Args:
        engine: the trainer.
        parts: of the checkpoint, by name; a network counts as saved when all of its parameters are in some part.
    """
    kept = {id(part) for part in parts.values()}
    kept |= {id(p) for part in parts.values() if isinstance(part, nn.Module) for p in part.parameters()}
    objective = getattr(engine, "objective", None)
    players, optimizers = getattr(objective, "players", {}), getattr(engine, "optimizers", {})
    missing = [f"player {name!r}" for name, net in players.items() if any(id(p) not in kept for p in net.parameters())]
    missing += [f"optimiser of the {name}" for name, optimizer in optimizers.items() if id(optimizer) not in kept]
    if hasattr(objective, "state_dict") and id(objective) not in kept:
        missing.append(f"objective {type(objective).__name__}, which counts or keeps images")
    if missing and idist.get_rank() == 0:
        _LOGGER.warning(
            "The checkpoint does not hold: %s. A resumed training would begin anew there and end otherwise than an "
            "uninterrupted one; add it to the parts of TrainingCheckpoint.",
            ", ".join(missing),
        )


def _differs(name: str, saved: Mapping[str, Any], now: Any) -> bool:
    before = saved.get(name)
    return before != now if name in _UNORDERED else not is_same_setting(before, now)


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(item, str) for item in [*before, *now]):
        gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        if gone or new:
            return f"{name}: {len(gone)} gone, {len(new)} new, such as {(gone + new)[0]!r}"
    return f"{name}: {in_words(before)} before, {in_words(now)} now"

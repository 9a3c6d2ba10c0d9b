"""What was trained on what, as a file beside the model."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import torch
from ignite.engine import Engine, Events
from torch import nn

import monai_synth
from monai_synth.checkpoints import naming_file
from monai_synth.data.intensity import Intensity, to_dict
from monai_synth.data.manifest import Manifest
from monai_synth.networks.structure import fingerprint


def describe_run(
    *,
    name: str,
    cohort: Manifest,
    fold: int | None = None,
    roles: Mapping[str, Any],
    intensity: Mapping[str, Intensity],
    networks: Mapping[str, nn.Module],
    seed: int,
    device: torch.device | str,
    precision: str = "fp32",
    spacing_mm: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything about a training that its result depends on and a report should say, as JSON-able values.

    Args:
        name: the bundle's name.
        cohort: the manifest.
        fold: which cross-validation fold validates; ``None`` where the manifest's ``split`` decides.
        roles: which manifest columns feed ``condition``, ``target`` and ``mask``.
        intensity: the intensity contract of each key.
        networks: the players under their names.
        seed: the seed.
        device: where the training runs.
        precision: of the networks' arithmetic.
        spacing_mm: what images are resampled to; ``None`` keeps the native grid.
        settings: everything else that a training may not change on its way, such as the learning rate; JSON-able.
    """
    splits: tuple[Any, ...] = cohort.splits if fold is None else ("train", "val", "test")
    parts = {split: cohort.part(split, fold=fold) for split in splits}
    return {
        "schema": 1,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "device": str(device),
        "precision": precision,
        "world_size": idist.get_world_size(),
        "versions": {
            "monai_synth": monai_synth.__version__,
            "monai": monai.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "manifest": {
            "file": str(cohort.file),
            "data_root": str(cohort.root) if cohort.needs_data_root else None,
            "sha256": sha256(cohort.file.read_bytes()).hexdigest(),
            "fold": fold,
            "patients": {split: sorted(part.patients) for split, part in parts.items()},
            "cases": {split: len(part) for split, part in parts.items()},
        },
        "roles": dict(roles),
        "spacing_mm": None if spacing_mm is None else list(spacing_mm),
        "settings": dict(settings or {}),
        "intensity": {key: to_dict(contract) for key, contract in intensity.items()},
        "networks": {
            player: {
                "class": type(network).__name__,
                "parameters": sum(p.numel() for p in network.parameters()),
                "fingerprint": fingerprint(network),
            }
            for player, network in networks.items()
        },
    }


class RunRecord:
    """Writes the record of a training as ``run.json`` when it starts.

    Args:
        record: from ``describe_run``.
        file: where to.
    """

    def __init__(self, record: Mapping[str, Any], file: str | Path) -> None:
        self.record = dict(record)
        self.file = Path(file)

    def attach(self, engine: Engine) -> None:
        """Write on the first process when the training starts."""
        engine.add_event_handler(Events.STARTED, self._write)

    def _write(self, engine: Any) -> None:
        if idist.get_rank() > 0:
            return
        loader = engine.data_loader
        training = {
            "max_epochs": engine.state.max_epochs,
            "batch_size": loader.batch_size,
            "epoch_length": engine.state.epoch_length,
            "num_slices": len(loader.dataset),
            "learning_rate": {
                name: optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
                for name, optimizer in engine.optimizers.items()
            },
        }
        temporary = self.file.with_suffix(".json.part")
        with naming_file(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**self.record, "training": training}, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.file)

"""What a model was trained with and on, kept as ``model.json`` beside its weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from monai_synth.data.intensity import Intensity, to_dict
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks.structure import fingerprint


def read_record(checkpoint: str | Path) -> dict[str, Any]:
    """Read the record beside a model; empty where there is none (imported weights, say).

    Raises:
        CheckpointError: if the file is damaged.
    """
    sidecar = Path(checkpoint).with_suffix(".json")
    if not sidecar.exists():
        return {}
    try:
        record = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{sidecar} is damaged ({error}). It says what the model was trained on: copy it again together with the "
            f"weights."
        ) from error
    if not isinstance(record, dict):
        raise CheckpointError(
            f"{sidecar} is damaged: it holds a {type(record).__name__}, not what a model was trained on. Copy it again "
            "together with the weights."
        )
    return record


def refuse_other_contract(
    checkpoint: str | Path,
    intensity: Mapping[str, Intensity],
    *,
    spacing_mm: Sequence[float] | None = None,
    settings: Mapping[str, Any] | None = None,
    network: nn.Module | None = None,
) -> None:
    """Stop before a model is used with other windows or voxel sizes than it was trained with: HU would be wrong unseen.

    Args:
        checkpoint: ``model.pt``; without a record beside it nothing is checked.
        intensity: the contract about to be used, by key.
        spacing_mm: what images are resampled to; ``None`` keeps the native grid.
        settings: options of the network, such as ``channels``, as they would be used.
        network: the generator about to be used; one whose weights fit but that pads or doubles in another way would
            give other images unseen.

    Raises:
        ConfigError: with the trained value and the way to give it.
    """
    record = read_record(checkpoint)
    for key, contract in intensity.items():
        trained, given = record.get("intensity", {}).get(key), to_dict(contract)
        if trained is not None and trained != given:
            differing = sorted(name for name in trained.keys() | given.keys() if trained.get(name) != given.get(name))
            options = " ".join(f"--intensity#{key}#{name} {trained.get(name)}" for name in differing)
            raise ConfigError(
                f"The model {checkpoint} was trained with {key} = {trained}, but would be used with {given}. Give the "
                f"trained values: {options}."
            )
    trained_mm = record.get("spacing_mm")
    is_trained = bool(record) and "imported_from" not in record  # an import says nothing of voxel sizes
    if is_trained and trained_mm != (None if spacing_mm is None else list(spacing_mm)):
        raise ConfigError(
            f"The model {checkpoint} was trained at spacing_mm = {trained_mm}, but would be used at {spacing_mm}. Give "
            f'--spacing_mm "{trained_mm}".'
        )
    trained_settings = record.get("settings", {})
    for name, given in (settings or {}).items():
        if name in trained_settings and trained_settings[name] != given:
            raise ConfigError(
                f"The model {checkpoint} was trained with {name} = {trained_settings[name]}, but would be built with "
                f"{given}. Give --{name} {trained_settings[name]}."
            )
    trained_as = record.get("networks", {}).get("generator", {}).get("fingerprint")
    if network is not None and trained_as is not None and trained_as != fingerprint(network):
        raise ConfigError(
            f"The model {checkpoint} was trained with another generator than network_def describes: its layers have "
            "other options. Give the config files and --network_def options of the training."
        )

"""What a model was trained with and on, kept as ``model.json`` beside its weights."""

import json
import shlex
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
    remedies: Mapping[str, str] | None = None,
) -> None:
    """Stop before a model is used with other windows or voxel sizes than it was trained with: HU would be wrong unseen.

    Settings are compared as JSON keeps them, so a list may be a tuple and an id text; the order of a mapping counts,
    because that of ``labels`` is the order of the network's channels.

    Args:
        checkpoint: ``model.pt``; without a record beside it nothing is checked.
        intensity: the contract about to be used, by key.
        spacing_mm: what images are resampled to; ``None`` keeps the native grid.
        settings: options of the network, such as ``channels``, as they would be used; label tables as
            :meth:`monai_synth.data.LabelTable.to_dict` describes them.
        network: the generator about to be used; one whose weights fit but that pads or doubles in another way would
            give other images unseen.
        remedies: what to do about settings that are no options themselves but follow from others, by their name.

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
            f"--spacing_mm {_as_argument(trained_mm)}."
        )
    trained_settings = record.get("settings", {})
    for name, given in (settings or {}).items():
        if name in trained_settings and not is_same_setting(trained_settings[name], given):
            trained = trained_settings[name]
            order = " Their order is that of the network's channels." if _holds_the_same(trained, given) else ""
            way_out = (remedies or {}).get(name, f"Give --{name} {_as_argument(trained)}.")
            raise ConfigError(
                f"The model {checkpoint} was trained with {name} = {in_words(trained)}, but would be built with "
                f"{in_words(given)}.{order} {way_out}"
            )
    trained_as = record.get("networks", {}).get("generator", {}).get("fingerprint")
    if network is not None and trained_as is not None and trained_as != fingerprint(network):
        raise ConfigError(
            f"The model {checkpoint} was trained with another generator than network_def describes: its layers have "
            "other options. Give the config files and --network_def options of the training."
        )


def is_same_setting(one: Any, other: Any) -> bool:
    """Whether two settings are equal as JSON keeps them, with the order of mappings."""
    return _in_order(_as_json(one)) == _in_order(_as_json(other))


def in_words(setting: Any) -> str:
    """A setting for a message; label tables as ``0 background, 255 lesion``."""
    if not _is_label_table(setting):
        return str(setting)
    named = ", ".join(f"{label} {name}" for label, name in zip(setting["ids"], setting["names"], strict=True))
    return named if setting["unknown_id"] is None else f"{named}, {setting['unknown_id']} unknown"


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _in_order(value: Any) -> Any:
    """Replace mappings by pairs, whose comparison minds the order."""
    if isinstance(value, dict):
        return "mapping", [(key, _in_order(item)) for key, item in value.items()]
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def _holds_the_same(trained: Any, given: Any) -> bool:
    """Whether two mappings or label tables that are not equal differ in their order only."""
    one, other = _as_json(trained), _as_json(given)
    if _is_label_table(one) and _is_label_table(other):
        return {**one, **_sorted_labels(one)} == {**other, **_sorted_labels(other)}
    return isinstance(one, dict) and one == other


def _sorted_labels(table: Mapping[str, Any]) -> dict[str, Any]:
    pairs = sorted(zip(table["ids"], table["names"], strict=True))
    return {"ids": [label for label, _ in pairs], "names": [name for _, name in pairs]}


def _is_label_table(setting: Any) -> bool:
    return isinstance(setting, Mapping) and set(setting) == {"ids", "names", "unknown_id"}


def _as_argument(setting: Any) -> str:
    """A setting as a shell takes it."""
    if setting is None:
        return "'$None'"  # MONAI leaves options out that are None
    if _is_label_table(setting) and setting["unknown_id"] is None:
        setting = dict(zip(setting["ids"], setting["names"], strict=True))
    text = str(setting)
    if not isinstance(setting, Mapping | list | tuple):
        return text
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'

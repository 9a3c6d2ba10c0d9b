"""The intensity contract that a model was trained with, kept beside its weights."""

import json
from collections.abc import Mapping
from pathlib import Path

from monai_synth.data.intensity import Intensity, to_dict
from monai_synth.errors import ConfigError


def refuse_other_contract(checkpoint: str | Path, intensity: Mapping[str, Intensity]) -> None:
    """Stop before a model is used with other windows than it was trained with, which would give plausible wrong HU.

    Args:
        checkpoint: ``model.pt``; without a ``model.json`` beside it (imported weights, say) nothing is checked.
        intensity: the contract about to be used, by key.

    Raises:
        ConfigError: if a key's contract differs, with both.
    """
    sidecar = Path(checkpoint).with_suffix(".json")
    if not sidecar.exists():
        return
    trained = json.loads(sidecar.read_text(encoding="utf-8")).get("intensity", {})
    for key, contract in intensity.items():
        if key in trained and to_dict(contract) != trained[key]:
            raise ConfigError(
                f"The model {checkpoint} was trained with {key} = {trained[key]}, but would be used with "
                f"{to_dict(contract)}. Give the trained values, as in --intensity#{key}#low -1024."
            )

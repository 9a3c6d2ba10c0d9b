"""What a paired method takes out of a batch, and how it says what is missing."""

from torch import Tensor

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.objectives.base import Batch
from monai_synth.objectives.pairs import refuse_unpaired

__all__ = ["require", "require_pair"]

_WAY_OUT = {
    "condition": "Give the data a role for 'condition'.",
    "target": "Give the data a role for 'target'; without pairs use an objective for unpaired data.",
    "instances": (
        "Give the data a role for 'instances', a map of instance ids; without instances use the label map before its "
        "one-hot encoding, or leave the encoder out."
    ),
}


def require(batch: Batch, key: str, *, method: str) -> Tensor:
    """Give an entry of a batch.

    Args:
        batch: as the engine hands it over.
        key: ``"condition"``, ``"target"`` or ``"instances"``.
        method: name of the objective, for the message.

    Raises:
        ConfigError: if the batch does not have it.
    """
    value = batch.get(key)
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"{method} needs {key!r}, but the batch has none (it has: {', '.join(batch) or 'nothing'}). {_WAY_OUT[key]}"
        )
    return value


def require_pair(batch: Batch, *, method: str) -> tuple[Tensor, Tensor]:
    """Give condition ``(B, C, *spatial)`` and target ``(B, D, *spatial)`` of the same cases and size.

    Raises:
        ConfigError: if one of them is missing, or they are of different cases.
        GeometryError: if their sizes differ.
    """
    refuse_unpaired(batch)
    condition, target = require(batch, "condition", method=method), require(batch, "target", method=method)
    if condition.shape[0] != target.shape[0] or condition.shape[2:] != target.shape[2:]:
        raise GeometryError(
            f"The condition has shape {list(condition.shape)} and the target {list(target.shape)}; batch and size must "
            "be equal. Bring both to one grid, and crop and augment them together."
        )
    return condition, target

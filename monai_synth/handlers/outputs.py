"""The named losses among all that an iteration of a training gives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def named_losses(output: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Every scalar of ``engine.state.output``, without waiting for the device.

    Also of decollated output: MONAI then repeats the scalars in every item. As ``output_transform`` of MONAI's
    ``StatsHandler``, ``TensorBoardStatsHandler`` and ``MLFlowHandler`` it hands them all terms instead of ``loss``.

    Returns:
        Tensors without dimensions, ``loss`` (the sum of all) among them.
    """
    item = output if isinstance(output, Mapping) else output[0]
    return {
        name: torch.as_tensor(value)
        for name, value in item.items()
        if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0)
    }


def unpack_single(transform: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a handler of MONAI read the output of a training that is not decollated.

    ``from_engine(["loss"], first=True)``, which ``--tracking mlflow`` uses, gives the value itself for a list of items,
    but a tuple of one for a dictionary, on which ``MLFlowHandler`` fails.
    """

    def unpacked(output: Any) -> Any:
        found = transform(output)
        return found[0] if isinstance(found, tuple) and len(found) == 1 else found

    return unpacked

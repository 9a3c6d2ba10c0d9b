"""From a collated batch to tensors on the device."""

from collections.abc import Mapping
from typing import Any

import torch


def prepare_synthesis_batch(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> dict[str, Any]:
    """Move every tensor of a batch to ``device``; ids and other entries stay as they are.

    Args:
        batchdata: dictionary with ``condition`` ``(B, C, *spatial)`` and, in training, ``target`` and ``mask``.
        device: where to.
        non_blocking: copy asynchronously from pinned memory.
    """
    return {
        key: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
        for key, value in batchdata.items()
    }

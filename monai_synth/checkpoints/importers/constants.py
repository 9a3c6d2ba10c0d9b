"""Constant buffers of published files: filters that our networks make themselves."""

import torch
from torch import Tensor

from monai_synth.errors import CheckpointError


def refuse_other_constant(key: str, found: Tensor, ours: Tensor, *, name: str) -> None:
    """Stop where a filter in a file is not the one that our network computes with.

    Args:
        key: entry of the file.
        found: its value; the same filter may be repeated along the first axis.
        ours: our filter, of the shape of ``found`` or without its first two axes.
        name: what the filter is, for the error.

    Raises:
        CheckpointError: if they differ.
    """
    expected = ours if ours.ndim == found.ndim else ours[None, None]
    is_ours = found.ndim == expected.ndim and found.shape[1:] == expected.shape[1:]
    if is_ours and not found.is_meta:
        is_ours = torch.allclose(found.float(), expected.expand_as(found), atol=1e-6)
    if not is_ours:
        raise CheckpointError(
            f"{key} is not {name}: the file comes from a modified network, and ours would compute something else."
        )

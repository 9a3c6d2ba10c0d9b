"""All random number generators that a training draws from, as plain tensors and numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture_random_state(generator: torch.Generator | None = None) -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's generators, in a form that ``torch.load(weights_only=True)`` reads.

    Args:
        generator: a further one, such as the data loader's own.
    """
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - MONAI draws from this one
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "generator": None if generator is None else generator.get_state(),
    }


def apply_random_state(state: dict[str, Any], generator: torch.Generator | None = None) -> None:
    """Go on drawing where :func:`capture_random_state` was called."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if generator is not None and state["generator"] is not None:
        generator.set_state(state["generator"])


@contextmanager
def preserved_random_state(generator: torch.Generator | None = None) -> Iterator[None]:
    """Whatever is drawn inside leaves no trace in what is drawn afterwards."""
    state = capture_random_state(generator)
    try:
        yield
    finally:
        apply_random_state(state, generator)

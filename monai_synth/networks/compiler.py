"""Whether ``torch.compile`` works on this machine, before it fails in the middle of a training."""

from typing import Any

import torch

from monai_synth.errors import ConfigError

__all__ = ["require_compiler"]


def require_compiler(device: torch.device, **options: Any) -> None:
    """Compile a few operations.

    Args:
        device: where the networks are.
        **options: of ``torch.compile``.

    Raises:
        ConfigError: if code for this device cannot be compiled here, or an option is unknown.
    """
    try:
        torch.compile(_probe, **options)(torch.ones(8, device=device))
    except Exception as error:  # each backend and each missing tool has errors of its own
        cause = getattr(error, "inner_exception", error)
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:200]
        raise ConfigError(
            f"torch.compile does not work here for {device.type}: {reason} It needs a C++ compiler (g++), on a GPU "
            "also Triton. Install them, or leave compiling off."
        ) from error


def _probe(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * 2 + 1)

"""What a network is built like, as one short text that changes with every option that matters."""

from hashlib import sha256

from torch import nn


def fingerprint(network: nn.Module) -> str:
    """Hash of a network's layers with their options, its stride and its image size; not of its weights.

    Two networks whose weights fit each other, but that pad, normalise or double in another way, differ.
    """
    sizes = [str(getattr(network, name, None)) for name in ("stride", "image_size", "noise_channels")]
    return sha256("\n".join([repr(network), *sizes]).encode()).hexdigest()[:16]

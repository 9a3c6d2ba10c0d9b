"""The noise of a generator, joined with its condition.

OASIS puts a random vector at every pixel beside the one-hot labels; the same vector everywhere in training, and
another one per region where a part of the image is to be drawn again.
"""

import torch
from torch import Tensor

from monai_synth.errors import ConfigError, GeometryError


def join_noise(condition: Tensor, noise: Tensor | None, *, in_channels: int, noise_channels: int) -> Tensor:
    """Concatenate noise and condition, noise first.

    Args:
        condition: ``(B, in_channels, *spatial)``.
        noise: ``(B, noise_channels)``, one vector for the whole image; ``(B, noise_channels, *spatial)``; or ``None``
            to draw one vector ``N(0, 1)`` per image.
        in_channels: channels of the condition that the network was built for.
        noise_channels: channels of the noise that the network was built for; 0 takes none.

    Returns:
        ``(B, noise_channels + in_channels, *spatial)``.

    Raises:
        ConfigError: if the channels do not add up to those of the network.
        GeometryError: if a spatial noise has another size than the condition.
    """
    given = condition.shape[1]
    if noise is None:
        if given != in_channels:
            raise ConfigError(
                f"The condition has {given} channels, but this generator takes {in_channels} (and {noise_channels} of "
                "noise). One-hot encode the labels that it was trained on; for an imported file whose noise has "
                "another width, say import_checkpoint(file, noise_channels=...)."
            )
        if noise_channels == 0:
            return condition
        noise = torch.randn(condition.shape[0], noise_channels, dtype=condition.dtype, device=condition.device)
    # The weights know only the sum: a published file does not say where its noise ends and its labels begin.
    if noise.shape[1] + given != noise_channels + in_channels:
        raise ConfigError(
            f"The noise has {noise.shape[1]} channels and the condition {given}, but this generator takes "
            f"{noise_channels} + {in_channels}. Give noise (B, {noise_channels}) and a condition (B, {in_channels}, "
            "*spatial)."
        )
    size = condition.shape[2:]
    if noise.ndim == 2:
        noise = noise.reshape(list(noise.shape) + [1] * len(size)).expand(list(noise.shape) + list(size))
    elif noise.shape[2:] != size:
        raise GeometryError(
            f"The noise has size {list(noise.shape[2:])}, but the condition {list(size)}. Give one vector per image, "
            "(B, channels), or noise of the condition's size."
        )
    return torch.cat([noise.to(condition.dtype), condition], dim=1)

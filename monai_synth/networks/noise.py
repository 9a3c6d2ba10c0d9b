"""The noise of a generator, joined with its condition.

OASIS puts a random vector at every pixel beside the one-hot labels; the same vector everywhere in training, and
another one per region where a part of the image is to be drawn again.
"""

import torch
from torch import Tensor

from monai_synth.errors import ConfigError, GeometryError


def join_noise(
    condition: Tensor, noise: Tensor | None, *, in_channels: int, noise_channels: int, is_guessed: bool
) -> Tensor:
    """Concatenate noise and condition, noise first.

    Args:
        condition: ``(B, in_channels, *spatial)``.
        noise: ``(B, noise_channels)``, one vector for the whole image; ``(B, noise_channels, *spatial)``; or ``None``
            to draw one vector ``N(0, 1)`` per image.
        in_channels: channels of the condition that the network was built for.
        noise_channels: channels of the noise that the network was built for; 0 takes none.
        is_guessed: whether ``noise_channels`` is a guess, as after an import: a published file tells only the sum of
            both, so noise and condition may then have any channels that add up.

    Returns:
        ``(B, noise_channels + in_channels, *spatial)``.

    Raises:
        ConfigError: if the channels do not add up to those of the network.
        GeometryError: if a spatial noise has another size than the condition.
    """
    given = condition.shape[1]
    if noise is None:
        if given != in_channels:
            advice = "One-hot encode the labels that it was trained on."
            if is_guessed:
                advice = "It is imported, and its noise_channels a guess: give it at the import."
            raise ConfigError(
                f"The condition has {given} channels, but this generator takes {in_channels} (and {noise_channels} of "
                f"noise). {advice}"
            )
        if noise_channels == 0:
            return condition
        noise = torch.randn(condition.shape[0], noise_channels, dtype=condition.dtype, device=condition.device)
    if noise.ndim != 2 and noise.ndim != condition.ndim:
        raise ConfigError(
            f"The noise has the shape {list(noise.shape)}. Give (B, {noise_channels}), one vector per image, or "
            f"(B, {noise_channels}, *spatial)."
        )
    adds_up = noise.shape[1] + given == noise_channels + in_channels
    if not adds_up or (noise.shape[1] != noise_channels and not is_guessed):
        raise ConfigError(
            f"The noise has {noise.shape[1]} channels and the condition {given}, but this generator takes "
            f"{noise_channels} + {in_channels}. Give noise (B, {noise_channels}) and a condition (B, {in_channels}, "
            "*spatial)."
        )
    if noise.shape[0] != condition.shape[0]:
        raise ConfigError(
            f"There are {noise.shape[0]} noise vectors for {condition.shape[0]} images. Give one for each."
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

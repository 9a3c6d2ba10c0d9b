"""The generator of SPADE (Park et al. 2019), in 2D and 3D.

It grows an image from a small grid; at every size the label map scales and shifts the normalised features. At its
defaults the network is the published one, value for value, and ``import_checkpoint`` reads the published files into it.
"""

from collections.abc import Sequence
from math import prod

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError
from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.blocks import (
    check_channels,
    check_kernel_size,
    check_norm,
    check_num_values,
    check_positive,
    check_spatial_dims,
    check_stride,
    init_weights,
    is_scripting,
    like_weight,
    use_channels_last,
)
from monai_synth.networks.spade_block import SpadeResBlock, resize_nearest

UPSAMPLINGS = ("normal", "more", "most")
_STEM_MULTIPLE = 16
_PUBLISHED_SIZE = 256  # pixels along each axis of the published images


class SPADEGenerator(nn.Module):
    """Generator of SPADE; with ``noise_channels`` the decoder of its VAE.

    State-dict keys: ``stem``, ``blocks.{i}`` from the smallest grid to the full size (see
    :class:`monai_synth.networks.spade_block.SpadeResBlock`), ``head`` for the last convolution.

    The published network builds its stem for one image size; here the stem follows the condition, so every size that
    is a multiple of ``stride`` works.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition: one-hot labels, and the instance edges where there are any.
        out_channels: channels of the prediction, in [-1, 1].
        channels: width of the last block of ``"normal"``; the stem has 16 times as many.
        upsampling: ``"normal"``, ``"more"`` or ``"most"``: 5, 6 or 7 doublings. ``"more"`` doubles once more between
            the two middle blocks, ``"most"`` also has another block, of half the width, at the end.
        noise_channels: 0, or the width of the vector that the VAE starts from (published: 256). The condition then
            reaches the image through the normalisations alone.
        latent_size: of the grid that the VAE makes from the vector; ``None`` is 256 / ``stride`` along each axis, as
            published. For conditions of other sizes the grid is resized by the nearest value: interpolated values
            would be less spread than those that batch norm has averaged.
        hidden_channels: width between condition and scale or shift; published: 128.
        kernel_size: of the convolutions from the condition to scale and shift; published: 3.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``, without parameters of its own.
        use_spectral_norm: normalise the weights of the blocks spectrally.
        activation_checkpointing: compute the blocks again in the backward pass instead of keeping their activations.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Raises:
        ConfigError: for an option out of range.
    """

    latent_size: list[int]  # TorchScript cannot tell the type of an empty list

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int,
        out_channels: int = 1,
        channels: int = 64,
        upsampling: str = "normal",
        noise_channels: int = 0,
        latent_size: Sequence[int] | None = None,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        use_spectral_norm: bool = True,
        activation_checkpointing: bool = False,
        init_type: str = "xavier",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        check_positive(in_channels=in_channels, out_channels=out_channels, channels=channels)
        if upsampling not in UPSAMPLINGS:
            raise ConfigError(f"upsampling={upsampling!r} is not known; choose one of {', '.join(UPSAMPLINGS)}.")
        if upsampling == "most" and channels < 2:
            raise ConfigError(f"channels={channels} cannot be halved as upsampling='most' does; choose 2 or more.")
        check_kernel_size(kernel_size)
        if noise_channels < 0:
            raise ConfigError(f"noise_channels={noise_channels} is negative; choose 0 (none) or more (published: 256).")
        conv = Conv["conv", spatial_dims]
        self.stride = 2 ** (5 + UPSAMPLINGS.index(upsampling))
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.noise_channels = noise_channels
        self.norm = norm
        self.activation_checkpointing = activation_checkpointing
        self.latent_size = _check_latent_size(latent_size, noise_channels, spatial_dims, self.stride)

        multiples = [16, 16, 16, 8, 4, 2, 1]
        widths = [channels * multiple for multiple in multiples]
        self.is_doubled = [False, True, upsampling != "normal", True, True, True, True]  # before each block
        if upsampling == "most":
            widths.append(channels // 2)
            self.is_doubled.append(True)
        self.stem_channels = _STEM_MULTIPLE * channels
        self.stem: nn.Module = (
            nn.Linear(noise_channels, self.stem_channels * prod(self.latent_size))
            if noise_channels
            else conv(in_channels, self.stem_channels, 3, padding=1)
        )
        self.blocks = nn.ModuleList(
            SpadeResBlock(
                spatial_dims=spatial_dims,
                in_channels=widths[i - 1] if i else self.stem_channels,
                out_channels=width,
                condition_channels=in_channels,
                hidden_channels=hidden_channels,
                kernel_size=kernel_size,
                norm=norm,
                use_spectral_norm=use_spectral_norm,
            )
            for i, width in enumerate(widths)
        )
        self.head = conv(widths[-1], out_channels, 3, padding=1)
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a condition into an image of the same size.

        Args:
            condition: ``(B, in_channels, *spatial)``, each size a multiple of ``stride``.
            noise: ``(B, noise_channels)``, of the VAE only; ``None`` draws ``N(0, 1)``. A style encoder gives the
                vector of an image.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            ConfigError: if condition or noise have other channels than the network.
            GeometryError: if a size is not a multiple of ``stride``, or too small to be normalised.
        """
        check_channels(condition, self.in_channels, self.spatial_dims)
        check_stride(condition, self.stride)
        condition = like_weight(condition, self.head.weight)
        size = [length // self.stride for length in condition.shape[2:]]
        if self.noise_channels > 0:
            x = self._decode(condition, noise, size)
        else:
            if noise is not None:
                raise ConfigError(
                    "This generator takes no noise. Leave it out, or build the generator with noise_channels."
                )
            x = self.stem(resize_nearest(condition, size))
        check_num_values(x, self.norm, self.training)
        for i, block in enumerate(self.blocks):
            if self.is_doubled[i]:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            labels = resize_nearest(condition, list(x.shape[2:]))  # once, for all norms of the block
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(block, [x, labels])
            else:
                x = block(x, labels)
        return torch.tanh(self.head(functional.leaky_relu(x, 0.2, inplace=True)))

    def _decode(self, condition: Tensor, noise: Tensor | None, size: list[int]) -> Tensor:
        """The grid of the VAE, ``(B, stem_channels, *size)``."""
        batch = condition.shape[0]
        if noise is None:
            noise = torch.randn(batch, self.noise_channels, dtype=condition.dtype, device=condition.device)
        if list(noise.shape) != [batch, self.noise_channels]:
            raise ConfigError(
                f"The noise has the shape {list(noise.shape)}, but this generator takes one vector per image: "
                f"{[batch, self.noise_channels]}."
            )
        shape = [batch, self.stem_channels]
        shape.extend(self.latent_size)
        grid = self.stem(noise.to(condition.dtype)).reshape(shape)
        # Also where the size fits: a trace would bake the choice in.
        return functional.interpolate(grid, size=size, mode="nearest")


def _check_latent_size(
    latent_size: Sequence[int] | None, noise_channels: int, spatial_dims: int, stride: int
) -> list[int]:
    """Size of the grid of the VAE; empty without one."""
    if noise_channels == 0:
        if latent_size is not None:
            raise ConfigError(
                f"latent_size={list(latent_size)} is of the VAE only. Leave it out, or give noise_channels "
                "(published: 256)."
            )
        return []
    if latent_size is None:
        return [_PUBLISHED_SIZE // stride] * spatial_dims
    if len(latent_size) != spatial_dims or min(latent_size) < 1:
        raise ConfigError(
            f"latent_size={list(latent_size)} is no grid with spatial_dims={spatial_dims}; give one positive number "
            "per axis (published: 8 and 8)."
        )
    return list(latent_size)

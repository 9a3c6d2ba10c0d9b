"""Generators of Haar coefficients driven by SPADE (USIS, Eskandar et al. 2023), in 2D and 3D.

The blocks work on the coefficients of an image, at half its size; the last step puts the image together from its bands.
At their defaults both networks are the published ones, value for value, and ``import_checkpoint`` reads the published
files into them. In 3D, which was not published, there are 8 bands instead of 4.
"""

from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.blocks import (
    check_dimensions,
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
from monai_synth.networks.haar import HaarUp
from monai_synth.networks.noise import join_noise
from monai_synth.networks.spade_block import SpadeResBlock, resize_nearest
from monai_synth.networks.wavelet_block import ResidualWaveletBlock

_LAST_MULTIPLE = 4
_MAX_MULTIPLE = 64


class WaveletGenerator(nn.Module):
    """OASIS on Haar coefficients: its blocks normalise coefficients, and these are doubled by the nearest value.

    State-dict keys: ``stem``, ``blocks.{i}.*`` (see :class:`monai_synth.networks.spade_block.SpadeResBlock`), ``head``.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: number of one-hot channels of the label map.
        out_channels: channels of the prediction, in [-1, 1].
        channels: base width; block ``i`` ends with ``channels * min(64, 4 * 2**(num_blocks - 1 - i))``.
        num_blocks: published: 6. Fewer are for smaller images and volumes: ``stride`` is ``2**num_blocks``.
        noise_channels: width of the noise beside the labels; 0 takes none.
        hidden_channels: width inside SPADE, see :class:`monai_synth.networks.spade_block.SpadeNorm`.
        kernel_size: of the convolutions inside SPADE; odd.
        norm: ``"batch"`` (synchronised across devices in the original), ``"instance"``, ``"group"`` or ``"none"``.
        use_spectral_norm: normalise the weights of the blocks spectrally.
        activation_checkpointing: compute the activations of the blocks again in the backward pass, which saves memory.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int,
        out_channels: int = 1,
        channels: int = 16,
        num_blocks: int = 6,
        noise_channels: int = 64,
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
        if num_blocks < 1:
            raise ConfigError(f"num_blocks={num_blocks} leaves no block; choose 1 or more (published: 6).")
        if noise_channels < 0:
            raise ConfigError(f"noise_channels={noise_channels} is negative; choose 0 (none) or more (published: 64).")
        check_kernel_size(kernel_size)
        num_bands = 2**spatial_dims
        widths = [channels * min(_MAX_MULTIPLE, _LAST_MULTIPLE * 2**i) for i in reversed(range(num_blocks))]
        if channels < 1 or widths[-1] % num_bands != 0:
            raise ConfigError(
                f"channels={channels} does not fit: the last block has {widths[-1]} channels, which must be a multiple "
                f"of the {num_bands} bands of a {spatial_dims}D image. Choose an even number (published: 16)."
            )
        self.stride = 2**num_blocks
        self.norm = norm
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.noise_channels = noise_channels
        self.is_noise_guessed = False  # set by an import that cannot tell noise from labels
        self.activation_checkpointing = activation_checkpointing
        conv = Conv["conv", spatial_dims]
        self.stem = conv(noise_channels + in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            self._make_block(
                is_last=i == num_blocks - 1,
                spatial_dims=spatial_dims,
                in_channels=widths[max(i - 1, 0)],
                out_channels=width,
                condition_channels=noise_channels + in_channels,
                hidden_channels=hidden_channels,
                kernel_size=kernel_size,
                norm=norm,
                use_spectral_norm=use_spectral_norm,
            )
            for i, width in enumerate(widths)
        )
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.head = conv(widths[-1], num_bands * out_channels, 1)
        self.haar_up = HaarUp()
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def _make_block(self, *, is_last: bool, **options: Any) -> nn.Module:
        return SpadeResBlock(**options)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a label map into an image of the same size.

        Args:
            condition: one-hot labels ``(B, in_channels, *spatial)``, each size a multiple of ``stride``.
            noise: ``(B, noise_channels)``, ``(B, noise_channels, *spatial)`` to vary it from place to place, or
                ``None`` to draw one vector per image.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if a size is not a multiple of ``stride``, or the noise has another size.
            ConfigError: if the channels are not those of the network.
        """
        joined = self._join(condition, noise)
        x = self._start(joined)
        check_num_values(x, self.norm, self.training)
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = self.upsample(x)
            labels = resize_nearest(joined, list(x.shape[2:]))
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(block, [x, labels])
            else:
                x = block(x, labels)
        return self._finish(x)

    def _join(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        """Noise and labels; all that the blocks see of either."""
        check_dimensions(condition, self.spatial_dims)
        check_stride(condition, self.stride)
        joined = join_noise(
            condition,
            noise,
            in_channels=self.in_channels,
            noise_channels=self.noise_channels,
            is_guessed=self.is_noise_guessed,
        )
        return like_weight(joined, self.stem.weight)

    def _start(self, joined: Tensor) -> Tensor:
        return self.stem(resize_nearest(joined, [length // self.stride for length in joined.shape[2:]]))

    def _finish(self, x: Tensor) -> Tensor:
        """From the last features to the image."""
        return torch.tanh(self.haar_up(self.head(x)))


class ResidualWaveletGenerator(WaveletGenerator):
    """The generator of USIS: its blocks normalise images, and the shortcuts are doubled as images.

    State-dict keys: ``stem``, ``blocks.{i}.*`` (see :class:`monai_synth.networks.wavelet_block.ResidualWaveletBlock`),
    ``head``. Arguments: as :class:`WaveletGenerator`.
    """

    def _make_block(self, *, is_last: bool, **options: Any) -> nn.Module:
        return ResidualWaveletBlock(has_doubling=not is_last, **options)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """As :meth:`WaveletGenerator.forward`."""
        joined = self._join(condition, noise)
        x = self._start(joined)
        for block in self.blocks:
            # The normalisations see images, which are twice as large as their coefficients.
            labels = resize_nearest(joined, [2 * length for length in x.shape[2:]])
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(block, [x, labels])
            else:
                x = block(x, labels)
        return self._finish(x)

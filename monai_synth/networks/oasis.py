"""The generator of OASIS (Schönfeld et al. 2021), in 2D and 3D: a label map and noise drive SPADE at every resolution.

The noise sits beside the labels at every pixel, so one region can be drawn again while the rest stays. At its defaults
the network is the published one, value for value, and ``import_checkpoint`` reads the published files into it; with
``edge_channels`` it is the variant for medical images that also takes the edges of a map.
"""

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

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
from monai_synth.networks.noise import join_noise
from monai_synth.networks.spade_block import SpadeResBlock, resize_nearest

_MULTIPLES = (16, 16, 16, 8, 4, 2, 1)  # widths of the stem and the six blocks, in multiples of channels


class OASISGenerator(nn.Module):
    """SPADE generator of OASIS: noise and labels at 1/32 of the size, then six residual blocks and five doublings.

    State-dict keys: ``stem``, ``blocks.{i}.*`` (see :class:`monai_synth.networks.spade_block.SpadeResBlock`) and
    ``head`` for the last convolution.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition: one-hot labels and, after them, ``edge_channels``.
        out_channels: channels of the prediction, in [-1, 1].
        channels: width of the last block; the first has 16 times as many.
        noise_channels: width of the noise beside the labels; 0 takes none.
        edge_channels: how many of the last channels of the condition are edge maps. They enter the stem and every
            residual block beside the features, but do not drive the normalisation. Published: 0; some networks for CT
            have 1.
        hidden_channels: width inside SPADE, see :class:`monai_synth.networks.spade_block.SpadeNorm`.
        kernel_size: of the convolutions inside SPADE; odd.
        norm: ``"batch"`` (synchronised across devices in the original), ``"instance"``, ``"group"`` or ``"none"``.
        use_spectral_norm: normalise the weights of the residual blocks spectrally.
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
        channels: int = 64,
        noise_channels: int = 64,
        edge_channels: int = 0,
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
        if noise_channels < 0:
            raise ConfigError(f"noise_channels={noise_channels} is negative; choose 0 (none) or more (published: 64).")
        if not 0 <= edge_channels < in_channels:
            raise ConfigError(
                f"edge_channels={edge_channels} leaves no labels among in_channels={in_channels}, which counts both. "
                "Choose 0 (none, as published) or fewer than in_channels."
            )
        check_kernel_size(kernel_size)
        self.stride = 32
        self.norm = norm
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.noise_channels = noise_channels
        self.is_noise_guessed = False  # set by an import that cannot tell noise from labels
        self.edge_channels = edge_channels
        self.activation_checkpointing = activation_checkpointing
        conv = Conv["conv", spatial_dims]
        widths = [channels * multiple for multiple in _MULTIPLES]
        self.stem = conv(noise_channels + in_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            SpadeResBlock(
                spatial_dims=spatial_dims,
                in_channels=widths[i],
                out_channels=widths[i + 1],
                condition_channels=noise_channels + in_channels - edge_channels,
                edge_channels=edge_channels,
                hidden_channels=hidden_channels,
                kernel_size=kernel_size,
                norm=norm,
                use_spectral_norm=use_spectral_norm,
            )
            for i in range(len(widths) - 1)
        )
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.head = conv(channels, out_channels, 3, padding=1)
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a label map into an image of the same size.

        Args:
            condition: one-hot labels, then edges, ``(B, in_channels, *spatial)``, each size a multiple of ``stride``.
            noise: ``(B, noise_channels)``, ``(B, noise_channels, *spatial)`` to vary it from place to place, or
                ``None`` to draw one vector per image.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if a size is not a multiple of ``stride``, or the noise has another size.
            ConfigError: if the channels are not those of the network.
        """
        check_dimensions(condition, self.spatial_dims)
        check_stride(condition, self.stride)
        # Noise, labels, edges: the one copy at full size. Each resolution gets its own once, whatever the number of
        # normalisations there.
        joined = join_noise(
            condition,
            noise,
            in_channels=self.in_channels,
            noise_channels=self.noise_channels,
            is_guessed=self.is_noise_guessed,
        )
        joined = like_weight(joined, self.stem.weight)
        x = self.stem(resize_nearest(joined, [length // self.stride for length in joined.shape[2:]]))
        check_num_values(x, self.norm, self.training)
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = self.upsample(x)
            labels = resize_nearest(joined, list(x.shape[2:]))
            edges: Tensor | None = None
            if self.edge_channels > 0:
                edges = labels[:, -self.edge_channels :]
                labels = labels[:, : -self.edge_channels]
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(block, [x, labels] if edges is None else [x, labels, edges])
            else:
                x = block(x, labels, edges)
        return torch.tanh(self.head(functional.leaky_relu(x, 0.2, inplace=True)))

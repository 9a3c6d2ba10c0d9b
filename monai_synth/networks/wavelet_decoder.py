"""The decoder of USIS (Eskandar et al. 2023): the image, back from what the wavelet discriminator made of it.

A discriminator whose features must tell the whole image cannot look at a few of its frequencies only.

The published decoder needs six feature maps where the discriminator of 256 x 256 images gives five, and no optimiser
ever had its weights. This one takes as many as the discriminator gives. Its layers follow the description (a U-Net of
transposed convolutions, dropout in the first two, instance norm as in the paper) and its widths the number of
parameters, 27,138,947 for six maps. No output of the published decoder was there to compare with. Ours: spectral norm
is left out, for the instance norm behind each convolution takes its scale away again; that the norms are affine, the
ReLU and the head are guesses that fit the number.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.blocks import check_spatial_dims, init_weights, use_channels_last
from monai_synth.networks.wavelet_discriminator import WaveletDiscriminator

_MAX_MULTIPLE = 8
_NUM_DROPOUTS = 2
_HEAD_KERNEL = 4


class WaveletDecoder(nn.Module):
    """Doubles the smallest feature map until the image is whole; each map joins at its size.

    State-dict keys: ``ups.{i}.0`` (transposed convolution), ``ups.{i}.1`` (norm) from the smallest map on, ``head``.

    Args:
        spatial_dims: 2 for slices, 3 for volumes (not published).
        feature_channels: of the maps in the discriminator's order, from a quarter of the image's size downwards, each
            half as large as the one before; see :meth:`of`.
        out_channels: of the image, in [-1, 1].
        channels: width at half the image's size; published: 64. It doubles with every halving, up to 8 times.
        dropout: behind the first two steps; published: 0.5.
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
        feature_channels: Sequence[int],
        out_channels: int = 3,
        channels: int = 64,
        dropout: float = 0.5,
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        if not feature_channels or min(feature_channels) < 1 or channels < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                f"WaveletDecoder(feature_channels={list(feature_channels)}, channels={channels}, dropout={dropout}): "
                "give the channels of one map or more, a width of 1 or more, and a dropout in [0, 1)."
            )
        self.feature_channels = list(feature_channels)
        depth = len(self.feature_channels)
        widths = [channels * min(_MAX_MULTIPLE, 2**i) for i in reversed(range(depth))]
        # The smallest map alone; then what came of it, beside the next larger one.
        inputs = [self.feature_channels[-1]]
        inputs += [width + skip for width, skip in zip(widths[:-1], self.feature_channels[-2::-1], strict=True)]
        conv, norm = Conv["convtrans", spatial_dims], Norm["instance", spatial_dims]
        self.ups = nn.ModuleList(
            nn.Sequential(
                conv(inputs[i], widths[i], 4, stride=2, padding=1, bias=False),
                norm(widths[i], affine=True),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout) if i < _NUM_DROPOUTS and dropout > 0 else nn.Identity(),
            )
            for i in range(depth)
        )
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.padding = [_HEAD_KERNEL // 2, (_HEAD_KERNEL - 1) // 2] * spatial_dims
        self.head = Conv["conv", spatial_dims](widths[-1], out_channels, _HEAD_KERNEL)
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    @classmethod
    def of(cls, discriminator: WaveletDiscriminator, **options: Any) -> Self:
        """Build the decoder that takes what ``discriminator`` gives.

        Args:
            discriminator: whose features are decoded; the image has as many channels as it takes.
            **options: further arguments; they win.
        """
        spatial_dims, depth = len(discriminator.image_size), len(discriminator.blocks)
        widths = [discriminator.get_parameter(f"blocks.{i}.conv_down.weight").shape[0] for i in range(depth)]
        arguments: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "feature_channels": widths,
            "out_channels": discriminator.stem.weight.shape[1] // 2**spatial_dims,
            **options,
        }
        return cls(**arguments)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode feature maps.

        Args:
            features: the maps of :class:`monai_synth.networks.wavelet_discriminator.WaveletDiscriminator` without its
                logits: ``(B, feature_channels[i], *spatial / 4 / 2**i)``.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if there are more or fewer maps, or their channels are others.
        """
        given = [feature.shape[1] for feature in features]
        if given != self.feature_channels:
            raise GeometryError(
                f"The discriminator gives {len(given)} maps with {given} channels, but the decoder was built for "
                f"{self.feature_channels}. Build it with WaveletDecoder.of(discriminator)."
            )
        x = features[-1]
        for i, up in enumerate(self.ups):
            if i > 0:
                x = torch.cat([x, features[-1 - i]], dim=1)
            x = up(x)
        return torch.tanh(self.head(functional.pad(self.upsample(x), self.padding)))

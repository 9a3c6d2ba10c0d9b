"""The discriminator of OASIS (Schönfeld et al. 2021), in 2D and 3D: a U-Net that segments real and fake images.

Every pixel is sorted into one of the label classes or into "fake". The unpaired methods that followed (USIS and its
medical variant) train the same network as a plain segmenter.
"""

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.blocks import check_spatial_dims, init_weights, is_scripting, is_tracing, use_channels_last
from monai_synth.networks.spectral_norm import spectral_norm

_MULTIPLES = (1, 1, 2, 2, 4, 4)  # widths of the six levels, in multiples of channels


class _Block(nn.Module):
    """Layers of one level: two convolutions, and a 1x1 shortcut where the width changes.

    The shortcut is convolved at the smaller of its two sizes. Averages and copies of pixels commute with a 1x1
    convolution, so this equals the published order, with a quarter (in 3D an eighth) of its cost.
    """

    def __init__(
        self, *, spatial_dims: int, in_channels: int, out_channels: int, use_spectral_norm: bool, has_act: bool = True
    ):
        super().__init__()
        conv = Conv["conv", spatial_dims]
        convs = [conv(in_channels, out_channels, 3, padding=1), conv(out_channels, out_channels, 3, padding=1)]
        self.act = nn.LeakyReLU(0.2) if has_act else nn.Identity()  # not in place: the shortcut takes the same input
        self.conv_0 = spectral_norm(convs[0]) if use_spectral_norm else convs[0]
        self.inner_act = nn.LeakyReLU(0.2, inplace=True)
        self.conv_1 = spectral_norm(convs[1]) if use_spectral_norm else convs[1]
        self.conv_s: nn.Module = nn.Identity()
        if in_channels != out_channels:
            shortcut = conv(in_channels, out_channels, 1)
            self.conv_s = spectral_norm(shortcut) if use_spectral_norm else shortcut
        self.pool = Pool["avg", spatial_dims](2)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")


class _Down(_Block):
    """Halve: convolve twice, then average; beside an averaged shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner_act(self.conv_0(self.act(x)))
        return self.pool(_make_even(self.conv_1(hidden))) + self.conv_s(self.pool(_make_even(x)))


class _Up(_Block):
    """Double: repeat pixels, then convolve twice; beside a repeated shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner_act(self.conv_0(self.upsample(self.act(x))))
        return self.conv_1(hidden) + self.upsample(self.conv_s(x))


class OASISDiscriminator(nn.Module):
    """Segmenting U-Net discriminator of OASIS.

    Six levels of 1, 1, 2, 2, 4 and 4 times ``channels`` halve the image, six double it again; each but the first on
    the way up also takes the features of the same size from the way down. No normalisation of features. It takes
    any size; at multiples of 64 it is the published network.

    State-dict keys: ``downs.{i}.conv_0|conv_1|conv_s`` from the image inwards, ``ups.{j}.conv_0|conv_1|conv_s``
    outwards, and ``head`` for the last convolution.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the image.
        num_classes: number of label classes, without "fake".
        channels: width of the first level; the last one has half as many.
        use_spectral_norm: normalise the weights of all convolutions but the last spectrally.
        activation_checkpointing: compute the activations of the levels again in the backward pass, which saves
            memory.
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
        in_channels: int = 3,
        num_classes: int,
        channels: int = 128,
        use_spectral_norm: bool = True,
        activation_checkpointing: bool = False,
        init_type: str = "xavier",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        if num_classes < 1:
            raise ConfigError(
                f"num_classes={num_classes} leaves nothing to tell apart; give the number of label classes."
            )
        if channels < 2:
            raise ConfigError(f"channels={channels} cannot be halved for the last level; choose 2 or more.")
        self.num_classes = num_classes
        self.activation_checkpointing = activation_checkpointing
        down_widths = [in_channels, *(channels * multiple for multiple in _MULTIPLES)]
        up_widths = [*reversed(down_widths[1:]), channels // 2]
        depth = len(_MULTIPLES)
        self.downs = nn.ModuleList(
            _Down(
                spatial_dims=spatial_dims,
                in_channels=down_widths[i],
                out_channels=down_widths[i + 1],
                use_spectral_norm=use_spectral_norm,
                has_act=i > 0,
            )
            for i in range(depth)
        )
        self.ups = nn.ModuleList(
            _Up(
                spatial_dims=spatial_dims,
                in_channels=up_widths[j] * (2 if j else 1),
                out_channels=up_widths[j + 1],
                use_spectral_norm=use_spectral_norm,
            )
            for j in range(depth)
        )
        self.head = Conv["conv", spatial_dims](up_widths[-1], num_classes + 1, 1)
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Sort every pixel of an image.

        Args:
            x: ``(B, in_channels, *spatial)``.

        Returns:
            One inner list (one scale): the six feature maps of the way up, from 1/32 of the size to the whole, then
            the logits ``(B, num_classes + 1, *spatial)``. Channel 0 is "fake", channel ``c + 1`` is class ``c``.
        """
        skips: list[Tensor] = [x]
        for down in self.downs:
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(down, [x])
            else:
                x = down(x)
            skips.append(x)
        skips.pop()  # the bottleneck itself
        outputs: list[Tensor] = []
        for j, up in enumerate(self.ups):
            if j > 0:
                x = torch.cat([skips.pop(), x], dim=1)
            if self.activation_checkpointing and self.training and not is_scripting():
                x = run_checkpointed(up, [x])
            else:
                x = up(x)
            x = _crop(x, list(skips[-1].shape[2:]))
            outputs.append(x)
        outputs.append(self.head(x))
        return [outputs]


def _make_even(x: Tensor) -> Tensor:
    """Repeat the last value of each odd axis, so that halving leaves no pixel out."""
    for axis in range(2, x.ndim):
        if x.shape[axis] % 2 == 1:
            x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
    return x


def _crop(x: Tensor, size: list[int]) -> Tensor:
    """Cut ``(B, C, *spatial)`` to a size at the end of each axis: an odd axis is one longer after doubling."""
    for axis, length in enumerate(size):
        # A crop of nothing is a view, but its gradient a copy. A trace would bake the comparison in.
        if is_tracing() or x.shape[axis + 2] != length:
            x = x.narrow(axis + 2, 0, length)
    return x

"""The U-Net generator of pix2pix (Isola et al. 2017), in 2D and 3D.

Every level halves the image with a 4x4 convolution of stride 2; on the way up each level gets the feature map of the
same size from the way down. The network is the published one, value for value (which trains with ``dropout=0.5``; the
default here is 0), and ``import_checkpoint`` reads the published files into it.
"""

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import (
    build_norm,
    check_channels,
    check_norm,
    check_positive,
    check_spatial_dims,
    check_stride,
    check_upsample,
    has_conv_bias,
    init_weights,
    use_channels_last,
)
from monai_synth.networks.small_maps import conv_type

_MAX_MULTIPLE = 8  # the published network stops widening at 8 x channels
_FIRST_DROPOUT_LEVEL = 4  # dropout sits where both sides of a level have 8 x channels


class _Down(nn.Module):
    """Halve: activation, 4x4 convolution of stride 2, norm."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str, bias: bool, act: bool):
        super().__init__()
        # In place, as in the original: the skip then carries the activated map. The ReLU on the way up makes that
        # the same function, and it saves one copy of every feature map.
        self.act = nn.LeakyReLU(0.2, inplace=True) if act else nn.Identity()
        self.conv = conv_type(spatial_dims)(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)
        self.norm = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.act(x)))


class _Up(nn.Module):
    """Double: ReLU, transposed convolution (or nearest resize and convolution), norm, dropout; then join the skip."""

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        norm: str,
        bias: bool,
        upsample: str,
        dropout: float,
        attention: bool,
    ):
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        if upsample == "transposed":
            self.resize: nn.Module = nn.Identity()
            conv = conv_type(spatial_dims, transposed=True)
            self.conv = conv(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)
        else:
            self.resize = nn.Upsample(scale_factor=2.0, mode="nearest")
            self.conv = Conv["conv", spatial_dims](in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.gate = (
            AttentionBlock(spatial_dims, f_int=max(out_channels // 2, 1), f_g=out_channels, f_l=out_channels)
            if attention
            else _PlainSkip()
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.dropout(self.norm(self.conv(self.resize(self.act(x)))))
        if skip is not None:
            x = torch.cat([self.gate(x, skip), x], dim=1)
        return x


class _PlainSkip(nn.Module):
    """Hand the feature map over unchanged."""

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x


class UNetGenerator(nn.Module):
    """U-Net generator of pix2pix.

    Level ``i`` has ``channels * min(2**i, 8)`` channels. State-dict keys: ``downs.{i}.conv|norm`` from the image
    inwards, ``ups.{j}.conv|norm|gate`` from the bottleneck outwards.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition.
        out_channels: channels of the prediction, in [-1, 1].
        channels: width of the outermost level.
        num_downs: number of halvings; the bottleneck of a 256 x 256 condition is 1 x 1 at 8.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``. The outermost and innermost down
            convolutions and the last layer have none.
        dropout: probability on the way up, in the levels where 8 x ``channels`` meet 8 x ``channels`` (three of
            them at ``num_downs=8``, none up to 5). The published method trains with 0.5.
        attention: weight each skip by an attention gate (Oktay et al. 2018), which lets the decoder mute regions
            of the condition that do not matter for the output. MONAI's gate: it uses batch norm whatever ``norm`` is.
        upsample: ``"transposed"`` (published) or ``"resize"``: nearest resize, then a 3x3 convolution, which avoids
            the checkerboard that transposed convolutions leave in flat tissue (Odena et al. 2016).
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
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 64,
        num_downs: int = 8,
        norm: str = "batch",
        dropout: float = 0.0,
        attention: bool = False,
        upsample: str = "transposed",
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        check_upsample(upsample)
        if num_downs < 2:
            raise ConfigError(f"num_downs={num_downs} leaves no level to skip over; choose 2 or more (published: 8).")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout={dropout} is not a probability below 1; choose 0 to 0.9 (published: 0.5).")
        check_positive(in_channels=in_channels, out_channels=out_channels, channels=channels)
        self.stride = 2**num_downs
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        widths = [channels * min(2**level, _MAX_MULTIPLE) for level in range(num_downs)]
        bias = has_conv_bias(norm)
        last = num_downs - 1

        self.downs = nn.ModuleList(
            _Down(
                spatial_dims=spatial_dims,
                in_channels=widths[level - 1] if level else in_channels,
                out_channels=widths[level],
                norm="none" if level in (0, last) else norm,
                bias=bias,
                act=level > 0,
            )
            for level in range(num_downs)
        )
        self.ups = nn.ModuleList(
            _Up(
                spatial_dims=spatial_dims,
                in_channels=widths[level] * (1 if level == last else 2),
                out_channels=widths[level - 1] if level else out_channels,
                norm=norm if level else "none",
                bias=bias or level == 0,
                upsample=upsample,
                dropout=dropout if _FIRST_DROPOUT_LEVEL <= level < last else 0.0,
                attention=attention and level > 0,
            )
            for level in reversed(range(num_downs))
        )
        self.last_act = nn.Tanh()
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a condition into an image of the same size.

        Args:
            condition: ``(B, in_channels, *spatial)``, each size a multiple of ``stride``.
            noise: not used; the variety of pix2pix comes from dropout.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if a size is not a multiple of ``stride``.
        """
        check_channels(condition, self.in_channels, self.spatial_dims)
        check_stride(condition, self.stride)
        x = condition
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()  # the bottleneck itself
        for up in self.ups:
            x = up(x, skips.pop() if len(skips) > 0 else None)
        return self.last_act(x)

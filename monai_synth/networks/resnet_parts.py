"""What the ResNet generators are put together from: stem, halving, residual block, doubling, head, in 2D and 3D.

Johnson et al. 2016 drew the plan; CycleGAN, CUT and pix2pixHD share it.
"""

from dataclasses import dataclass

import torch
from monai.networks.layers.factories import Conv, Pad
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.antialias import BlurDown, BlurUp
from monai_synth.networks.blocks import (
    build_norm,
    check_norm,
    check_spatial_dims,
    check_stride,
    check_upsample,
    has_conv_bias,
    is_scripting,
    is_tracing,
)
from monai_synth.networks.small_maps import conv_type

PADDINGS = ("reflect", "replicate", "zero")
_WIDE = 3  # padding of the 7x7 convolutions of stem and head, always by reflection


def _reflection_pad(spatial_dims: int, width: int) -> nn.Module:
    return nn.ReflectionPad2d(width) if spatial_dims == 2 else nn.ReflectionPad3d(width)


def _pad(padding: str, *, spatial_dims: int) -> nn.Module:
    """One value on every side; zeros are left to the convolution, which brings them for nothing."""
    if padding == "reflect":
        return _reflection_pad(spatial_dims, 1)
    return Pad["replicationpad", spatial_dims](1) if padding == "replicate" else nn.Identity()


class ResNetBlock(nn.Module):
    """``x`` plus padding, 3x3 convolution, norm, ReLU, dropout, padding, 3x3 convolution, norm of it.

    State-dict keys: ``conv_0|norm_0|conv_1|norm_1``.
    """

    def __init__(self, *, spatial_dims: int, channels: int, norm: str, bias: bool, padding: str, dropout: float):
        super().__init__()
        conv, zeros = conv_type(spatial_dims), int(padding == "zero")
        self.pad = _pad(padding, spatial_dims=spatial_dims)
        self.conv_0 = conv(channels, channels, 3, padding=zeros, bias=bias)
        self.norm_0 = build_norm(norm, spatial_dims=spatial_dims, channels=channels)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv_1 = conv(channels, channels, 3, padding=zeros, bias=bias)
        self.norm_1 = build_norm(norm, spatial_dims=spatial_dims, channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Change ``(B, channels, *spatial)``, of the same shape."""
        hidden = self.dropout(self.act(self.norm_0(self.conv_0(self.pad(x)))))
        return x + self.norm_1(self.conv_1(self.pad(hidden)))


@dataclass(frozen=True, kw_only=True)
class ResNetParts:
    """Makes the parts of one network, each as the list of its layers in the order of the originals.

    Attributes:
        spatial_dims: 2 or 3.
        norm: see :func:`monai_synth.networks.blocks.build_norm`.
        conv_bias: whether the convolutions in front of a norm have a bias; ``None`` follows pix2pix.
        padding: of the residual blocks, one of ``PADDINGS``.
        dropout: probability inside the residual blocks.
        antialias_down: halve by a convolution of stride 1 and a blur.
        antialias_up: double by linear interpolation and a convolution.
        upsample: how to double otherwise: ``"transposed"`` or ``"resize"``.

    Raises:
        ConfigError: for an option out of range.
    """

    spatial_dims: int
    norm: str = "instance"
    conv_bias: bool | None = None
    padding: str = "reflect"
    dropout: float = 0.0
    antialias_down: bool = False
    antialias_up: bool = False
    upsample: str = "transposed"

    def __post_init__(self) -> None:
        check_spatial_dims(self.spatial_dims)
        check_norm(self.norm)
        check_upsample(self.upsample)
        if self.padding not in PADDINGS:
            raise ConfigError(f"padding={self.padding!r} is not known; choose one of {', '.join(PADDINGS)}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} is not a probability below 1; choose 0 to 0.9 (published: 0.5).")
        if self.antialias_up and self.upsample != "transposed":
            raise ConfigError(
                f"upsample={self.upsample!r} and antialias_up=True are two ways of doubling without a checkerboard; "
                "choose one of them."
            )

    @property
    def has_bias(self) -> bool:
        """Whether the convolutions in front of a norm have a bias."""
        return has_conv_bias(self.norm) if self.conv_bias is None else self.conv_bias

    def stem(self, in_channels: int, out_channels: int) -> list[nn.Module]:
        """7x7 convolution at full size."""
        conv = Conv["conv", self.spatial_dims](in_channels, out_channels, 7, bias=self.has_bias)
        return [_reflection_pad(self.spatial_dims, _WIDE), conv, *self._norm_act(out_channels)]

    def down(self, channels: int) -> list[nn.Module]:
        """Half the size, twice the channels."""
        stride = 1 if self.antialias_down else 2
        conv = conv_type(self.spatial_dims)(channels, channels * 2, 3, stride=stride, padding=1, bias=self.has_bias)
        layers = [conv, *self._norm_act(channels * 2)]
        if self.antialias_down:
            layers.append(BlurDown(spatial_dims=self.spatial_dims, channels=channels * 2))
        return layers

    def block(self, channels: int) -> list[nn.Module]:
        """A residual block."""
        return [
            ResNetBlock(
                spatial_dims=self.spatial_dims,
                channels=channels,
                norm=self.norm,
                bias=self.has_bias,
                padding=self.padding,
                dropout=self.dropout,
            )
        ]

    def up(self, channels: int) -> list[nn.Module]:
        """Twice the size, half the channels."""
        half = channels // 2
        if not self.antialias_up and self.upsample == "transposed":
            transposed = conv_type(self.spatial_dims, transposed=True)(
                channels, half, 3, stride=2, padding=1, output_padding=1, bias=self.has_bias
            )
            return [transposed, *self._norm_act(half)]
        resize = (
            BlurUp(spatial_dims=self.spatial_dims)
            if self.antialias_up
            else nn.Upsample(scale_factor=2.0, mode="nearest")
        )
        conv = Conv["conv", self.spatial_dims](channels, half, 3, padding=1, bias=self.has_bias)
        return [resize, conv, *self._norm_act(half)]

    def head(self, in_channels: int, out_channels: int) -> list[nn.Module]:
        """7x7 convolution with a bias whatever the norm, and tanh."""
        conv = Conv["conv", self.spatial_dims](in_channels, out_channels, 7)
        return [_reflection_pad(self.spatial_dims, _WIDE), conv, nn.Tanh()]

    def min_size(self, stride: int) -> int:
        """Smallest size that a network with residual blocks at 1/``stride`` of it can take along each axis."""
        return max(_WIDE + 1, stride * (2 if self.padding == "reflect" else 1))

    @property
    def min_values(self) -> int:
        """Smallest number of values that the norms can take; torch refuses to normalise a single one by itself."""
        return 2 if self.norm in ("instance", "group") else 1

    def _norm_act(self, channels: int) -> list[nn.Module]:
        return [build_norm(self.norm, spatial_dims=self.spatial_dims, channels=channels), nn.ReLU(inplace=True)]


class LayerChain(nn.Module):
    """Layers one after the other, in parts whose activations can be computed again.

    State-dict keys: ``layers.{i}``, counted through all parts as in the originals.

    Args:
        parts: lists of layers.
        activation_checkpointing: in training keep only what lies between the parts, see
            :func:`monai_synth.networks.activation_checkpointing.run_checkpointed`.
    """

    def __init__(self, parts: list[list[nn.Module]], *, activation_checkpointing: bool = False):
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.ModuleList(layer for part in parts for layer in part)
        self.ends = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]

    def forward(self, x: Tensor) -> Tensor:
        """Pass ``(B, C, *spatial)`` through all layers."""
        return self.run_layers(x)

    def run_layers(self, x: Tensor) -> Tensor:
        """What ``forward`` does, under a name that a network made of one chain can call."""
        if self.activation_checkpointing and self.training and not is_scripting():
            return self.collect(x, [])[0]
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.jit.unused
    def collect(self, x: Tensor, wanted: list[int]) -> list[Tensor]:
        """What leaves the layers ``wanted``, in this order, and last what leaves the last layer that was run.

        Without ``wanted`` that is the last of all, else the last of ``wanted``.
        """
        last = max(wanted) + 1 if wanted else len(self.layers)
        found: dict[int, Tensor] = {}
        start = 0
        for end in sorted({*self.ends, *(index + 1 for index in wanted)}):
            if end > last:
                break
            x = self._run(start, end, x)
            if end - 1 in wanted:
                found[end - 1] = x
                if end < last and self._may_be_in_place(end):
                    x = x.clone()
            start = end
        return [*(found[index] for index in wanted), x]

    def _run(self, start: int, end: int, x: Tensor) -> Tensor:
        part = nn.Sequential(*list(self.layers)[start:end])
        # A part that overwrites its input cannot be computed from it again.
        if self.activation_checkpointing and self.training and not self._may_be_in_place(start):
            return run_checkpointed(part, [x])
        result: Tensor = part(x)
        return result

    def _may_be_in_place(self, index: int) -> bool:
        """Whether this layer overwrites what it gets, or hands it to one that does."""
        layer = self.layers[index]
        return isinstance(layer, nn.Identity) or bool(getattr(layer, "inplace", False))


def check_size(condition: Tensor, stride: int, min_size: int, min_values: int) -> None:
    """Refuse a condition ``(B, C, *spatial)`` whose sizes the network cannot halve, reflect or normalise.

    As :func:`monai_synth.networks.blocks.check_stride`, it can be scripted and does not check in a trace.

    Args:
        condition: input of the network.
        stride: each size must be a multiple of it.
        min_size: each size must be at least this, see :meth:`ResNetParts.min_size`.
        min_values: there must be at least so many values at 1/``stride`` of the size, see
            :attr:`ResNetParts.min_values`.
    """
    check_stride(condition, stride)
    if is_tracing():
        return
    size = condition.shape[2:]
    is_small = False
    num_values = 1
    for length in size:
        num_values = num_values * (length // stride)
        if length < min_size:
            is_small = True
    if is_small:
        raise GeometryError(
            f"The condition has size {list(size)}, but this network reflects its values at the borders, which needs "
            f"at least {min_size} along each axis. Use larger images or patches, or fewer num_downs; with "
            "padding='reflect', padding='replicate' asks for half as much."
        )
    if num_values < min_values:
        raise GeometryError(
            f"The condition has size {list(size)}, which leaves a single value at 1/{stride} of it: nothing that an "
            "instance or group norm could normalise. Use larger images or patches, a smaller num_downs, or "
            "norm='batch'."
        )

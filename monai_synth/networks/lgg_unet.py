"""The segmentation U-Net of Buda et al. 2019 (lower-grade gliomas in MRI), in 2D and 3D.

It finds structures in images. Trained on real images and run on synthetic ones, or the other way round, it tells
whether a synthetic image shows what its label map asks for.
"""

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import (
    build_norm,
    check_channels,
    check_norm,
    check_num_values,
    check_positive,
    check_spatial_dims,
    check_stride,
    init_weights,
    use_channels_last,
)


class _DoubleConv(nn.Module):
    """Twice: 3x3 convolution, norm, ReLU."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        bias = norm == "none"
        self.conv1 = Conv["conv", spatial_dims](in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm1 = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)
        self.conv2 = Conv["conv", spatial_dims](out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(x)))


class _Up(nn.Module):
    """Double with a transposed convolution, join the skip behind it, convolve twice."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.up = Conv["convtrans", spatial_dims](in_channels, out_channels, 2, stride=2)
        self.block = _DoubleConv(
            spatial_dims=spatial_dims, in_channels=2 * out_channels, out_channels=out_channels, norm=norm
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(torch.cat([self.up(x), skip], dim=1))


class LGGUNet(nn.Module):
    """U-Net of Buda et al. 2019: widths 32 to 512, batch norm, a probability per voxel.

    Level ``i`` has ``channels * 2**i`` channels. State-dict keys: ``downs.{i}.conv1|norm1|conv2|norm2`` from the image
    inwards, ``bottleneck.``, ``ups.{j}.up|block.`` from the bottleneck outwards, ``head``.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the image; the published network sees pre-contrast, FLAIR and post-contrast.
        out_channels: number of structures, each found independently of the others.
        channels: width of the outermost level.
        num_downs: number of halvings.
        norm: ``"batch"`` (published), ``"instance"``, ``"group"`` or ``"none"``. Only without norm have the
            convolutions a bias.
        use_sigmoid: return probabilities, as published. ``False`` returns logits: losses that contain the sigmoid
            (BCE with logits, most Dice losses) are stable in half precision, the logarithm of a probability is not.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`; ``None`` keeps those of torch,
            as the published network does.
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
        out_channels: int = 1,
        channels: int = 32,
        num_downs: int = 4,
        norm: str = "batch",
        use_sigmoid: bool = True,
        init_type: str | None = None,
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        if num_downs < 1:
            raise ConfigError(f"num_downs={num_downs} leaves no level to skip over; choose 1 or more (published: 4).")
        check_positive(in_channels=in_channels, out_channels=out_channels, channels=channels)
        self.stride = 2**num_downs
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.norm = norm
        widths = [channels * 2**level for level in range(num_downs + 1)]
        self.downs = nn.ModuleList(
            _DoubleConv(
                spatial_dims=spatial_dims,
                in_channels=widths[level - 1] if level else in_channels,
                out_channels=widths[level],
                norm=norm,
            )
            for level in range(num_downs)
        )
        self.pool = Pool["max", spatial_dims](2)
        self.bottleneck = _DoubleConv(
            spatial_dims=spatial_dims, in_channels=widths[-2], out_channels=widths[-1], norm=norm
        )
        self.ups = nn.ModuleList(
            _Up(spatial_dims=spatial_dims, in_channels=widths[level + 1], out_channels=widths[level], norm=norm)
            for level in reversed(range(num_downs))
        )
        self.head = Conv["conv", spatial_dims](channels, out_channels, 1)
        self.last_act = nn.Sigmoid() if use_sigmoid else nn.Identity()
        if init_type is not None:
            init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, image: Tensor) -> Tensor:
        """Find structures in an image.

        Args:
            image: ``(B, in_channels, *spatial)``, each size a multiple of ``stride``. The published weights expect
                channels of mean 0 and standard deviation 1 over the volume.

        Returns:
            ``(B, out_channels, *spatial)``: probabilities, or logits without the sigmoid.

        Raises:
            GeometryError: if a size is not a multiple of ``stride``.
        """
        check_channels(image, self.in_channels, self.spatial_dims)
        check_stride(image, self.stride)
        x = image
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        check_num_values(x, self.norm, self.training)
        x = self.bottleneck(x)
        for up in self.ups:
            x = up(x, skips.pop())
        return self.last_act(self.head(x))

"""The patch discriminators of pix2pix (Isola et al. 2017) and its successors, in 2D and 3D.

Each output value judges one patch of the image; 70 x 70 pixels at the default depth.
"""

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.antialias import BlurDown
from monai_synth.networks.blocks import (
    build_norm,
    check_channels,
    check_norm,
    check_positive,
    check_spatial_dims,
    has_conv_bias,
    init_weights,
    use_channels_last,
)
from monai_synth.networks.spectral_norm import spectral_norm

_MAX_MULTIPLE = 8


class _PatchLayer(nn.Module):
    """Convolution, norm, LeakyReLU; with ``antialias`` these at full size, then blur and halve."""

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        padding: int,
        norm: str,
        bias: bool,
        use_spectral_norm: bool,
        antialias: bool,
    ):
        super().__init__()
        has_blur = antialias and stride == 2
        stride = 1 if has_blur else stride
        conv = Conv["conv", spatial_dims](in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)
        self.conv = spectral_norm(conv) if use_spectral_norm else conv
        self.norm = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.down = BlurDown(spatial_dims=spatial_dims, channels=out_channels) if has_blur else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.norm(self.conv(x))))


class PatchDiscriminator(nn.Module):
    """PatchGAN of pix2pix; ``num_layers=0`` is its pixel discriminator.

    State-dict keys: ``layers.{i}.conv|norm`` and ``head`` for the last convolution.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition plus channels of the image.
        channels: width of the first layer; layer ``i`` has ``channels * min(2**i, 8)``.
        num_layers: number of convolutions of stride 2. 3 judges patches of 70 pixels, 0 single pixels.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``; the first layer and the head have none.
        padding: 1 (pix2pix) or 2 (pix2pixHD and SPADE, whose maps so keep the borders in view).
        max_channels: widest layer; ``None`` is 8 x ``channels`` as in pix2pix. pix2pixHD and SPADE stop at 512.
        conv_bias: whether the convolutions between the first and the head have a bias; ``None`` follows pix2pix: only
            in front of instance norm.
        use_spectral_norm: normalise the weights between the first layer and the head spectrally, as SPADE does.
        use_sigmoid: return probabilities instead of logits. The losses of this package take logits.
        antialias: halve by a convolution of stride 1 and a blur (Zhang 2019) instead of a convolution of stride 2, as
            CUT does, so that the judgement depends less on where the image lies on the pixel grid. The maps have the
            same sizes, a patch has 84 pixels instead of 70, and these convolutions compute four times as many values.
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
        channels: int = 64,
        num_layers: int = 3,
        norm: str = "batch",
        padding: int = 1,
        max_channels: int | None = None,
        conv_bias: bool | None = None,
        use_spectral_norm: bool = False,
        use_sigmoid: bool = False,
        antialias: bool = False,
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        if num_layers < 0:
            raise ConfigError(f"num_layers={num_layers} is negative; choose 0 (single pixels) or more (published: 3).")
        if padding not in (1, 2):
            raise ConfigError(f"padding={padding} is not known; choose 1 (pix2pix) or 2 (pix2pixHD, SPADE).")
        check_positive(in_channels=in_channels, channels=channels)
        self.num_layers = num_layers
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        # What leaves one output value; with padding 2 maps never shrink below 2.
        self.min_size = 1 if num_layers == 0 else 2 if padding == 2 else 3 * 2**num_layers
        bias = has_conv_bias(norm) if conv_bias is None else conv_bias
        kernel = 4 if num_layers else 1
        padding = padding if num_layers else 0
        num_convs = num_layers + 1 if num_layers else 2
        widest = max_channels or channels * _MAX_MULTIPLE
        widths = [min(channels * 2**i, widest) for i in range(num_convs)]
        self.layers = nn.ModuleList(
            _PatchLayer(
                spatial_dims=spatial_dims,
                in_channels=widths[i - 1] if i else in_channels,
                out_channels=widths[i],
                kernel=kernel,
                stride=2 if i < num_layers else 1,
                padding=padding,
                norm=norm if i else "none",
                bias=bias or i == 0,
                use_spectral_norm=use_spectral_norm and i > 0,
                antialias=antialias,
            )
            for i in range(num_convs)
        )
        # The head of the pixel discriminator follows the bias rule of its norm, that of the PatchGAN always has one.
        self.head = Conv["conv", spatial_dims](widths[-1], 1, kernel, padding=padding, bias=bias or num_layers > 0)
        self.last_act = nn.Sigmoid() if use_sigmoid else nn.Identity()
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge an image, usually concatenated with its condition.

        Args:
            x: ``(B, in_channels, *spatial)``.

        Returns:
            One inner list (one scale): the feature map of every layer, then the logits
            ``(B, 1, *smaller spatial)``.

        Raises:
            GeometryError: if the image is too small for the depth.
        """
        check_channels(x, self.in_channels, self.spatial_dims)
        if min(x.shape[2:]) < self.min_size:
            raise GeometryError(
                f"The image has size {list(x.shape[2:])}, but a patch discriminator with num_layers={self.num_layers} "
                f"needs at least {self.min_size} along each axis. Use larger patches or a smaller num_layers."
            )
        outputs: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        outputs.append(self.last_act(self.head(x)))
        return [outputs]

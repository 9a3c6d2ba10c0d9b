"""The ResNet generators of CycleGAN (Zhu et al. 2017), CUT (Park et al. 2020) and pix2pixHD (Wang et al. 2018).

One network with three sets of options, in 2D and 3D: halve a few times, change the image in residual blocks, double
as often. At published options the network is the published one, value for value, and ``import_checkpoint`` reads the
published files into it.
"""

from torch import Tensor

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import check_channels, check_positive, init_weights, use_channels_last
from monai_synth.networks.resnet_parts import LayerChain, ResNetParts, check_size


class ResNetGenerator(LayerChain):
    """ResNet generator: CycleGAN's at its defaults, CUT's and pix2pixHD's global one by options.

    Level ``i`` has ``channels * 2**i`` channels. State-dict keys: ``layers.{i}``, where ``i`` counts paddings, norms
    and activations too, as the published files and ``nce_layers`` of CUT do.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition.
        out_channels: channels of the prediction, in [-1, 1].
        channels: width at full size.
        num_downs: number of halvings; 2 in CycleGAN and CUT, 4 in pix2pixHD.
        num_blocks: residual blocks at the smallest size; 9 for 256 pixels and more, 6 for 128 (CycleGAN).
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``.
        dropout: probability between the two convolutions of a block. The published networks of CycleGAN, CUT and
            pix2pixHD have none; pix2pix with a ResNet has 0.5.
        padding: of the residual blocks: ``"reflect"`` (published), ``"replicate"`` or ``"zero"``. Reflection cannot
            pad a single value, so it needs twice ``stride`` along each axis; the other two are content with
            ``stride``, which matters for thin volumes.
        conv_bias: whether convolutions in front of a norm have a bias; ``None`` follows pix2pix (only in front of
            instance norm), ``True`` is pix2pixHD.
        antialias_down: halve by a convolution of stride 1 and a blur (Zhang 2019), as CUT does: a shifted condition
            then gives a more nearly shifted prediction, for four times the work in these convolutions.
        antialias_up: double by linear interpolation and a convolution, as CUT does.
        upsample: ``"transposed"`` (published) or ``"resize"``: nearest resize, then a 3x3 convolution, which avoids
            the checkerboard that transposed convolutions leave in flat tissue (Odena et al. 2016). CUT has
            ``antialias_up`` for that.
        activation_checkpointing: in training compute activations twice instead of keeping them, all but one per
            block and level: less memory, about a third more time.
        init_type: start values, see :func:`monai_synth.networks.blocks.init_weights`.
        init_gain: standard deviation or gain of the start values.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Attributes:
        stride: each size of the condition must be a multiple of it.
        min_size: each size of the condition must be at least this.

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
        num_downs: int = 2,
        num_blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
        padding: str = "reflect",
        conv_bias: bool | None = None,
        antialias_down: bool = False,
        antialias_up: bool = False,
        upsample: str = "transposed",
        activation_checkpointing: bool = False,
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        parts = ResNetParts(
            spatial_dims=spatial_dims,
            norm=norm,
            conv_bias=conv_bias,
            padding=padding,
            dropout=dropout,
            antialias_down=antialias_down,
            antialias_up=antialias_up,
            upsample=upsample,
        )
        if num_downs < 1 or num_blocks < 0:
            raise ConfigError(
                f"num_downs={num_downs}, num_blocks={num_blocks}: a ResNet generator halves at least once and has no "
                "fewer than 0 blocks (published: 2 and 9, pix2pixHD 4 and 9)."
            )
        check_positive(in_channels=in_channels, out_channels=out_channels, channels=channels)
        widths = [channels * 2**level for level in range(num_downs + 1)]
        super().__init__(
            [
                parts.stem(in_channels, channels),
                *(parts.down(width) for width in widths[:-1]),
                *(parts.block(widths[-1]) for _ in range(num_blocks)),
                *(parts.up(width) for width in reversed(widths[1:])),
                parts.head(channels, out_channels),
            ],
            activation_checkpointing=activation_checkpointing,
        )
        self.stride = 2**num_downs
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.min_size = parts.min_size(self.stride)
        self.min_values = parts.min_values
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Turn a condition into an image of the same size.

        Args:
            condition: ``(B, in_channels, *spatial)``, each size a multiple of ``stride`` and at least ``min_size``.
            noise: not used; these generators give one image per condition.

        Returns:
            ``(B, out_channels, *spatial)`` in [-1, 1].

        Raises:
            GeometryError: if a size is no such multiple, or too small.
        """
        check_channels(condition, self.in_channels, self.spatial_dims)
        check_size(condition, self.stride, self.min_size, self.min_values)
        return self.run_layers(condition)

    def encode(self, condition: Tensor, layers: list[int]) -> list[Tensor]:
        """Features on the way, for a contrastive loss over patches; the network runs no further than it must.

        Args:
            condition: ``(B, in_channels, *spatial)``, as for ``forward``.
            layers: indices into ``self.layers``, the ``nce_layers`` of CUT (0, 4, 8, 12, 16). 0 is the padded
                condition.

        Returns:
            What leaves these layers, in the order of ``layers``. Unlike in CUT, a feature in front of an activation
            stays as it is: there the activation overwrites it in place.

        Raises:
            ConfigError: if there is no such layer.
            GeometryError: as ``forward``.
        """
        check_size(condition, self.stride, self.min_size, self.min_values)
        if unknown := [index for index in layers if not 0 <= index < len(self.layers)]:
            raise ConfigError(
                f"There is no layer {unknown[0]} to take features from: this generator has the layers 0 to "
                f"{len(self.layers) - 1}. CUT takes 0, 4, 8, 12, 16."
            )
        return self.collect(condition, layers)[:-1] if layers else []

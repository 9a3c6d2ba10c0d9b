"""The multi-scale discriminators of pix2pixHD (Wang et al. 2018) and SPADE (Park et al. 2019), in 2D and 3D.

Patch discriminators of the same form judge the image at full size, at half, at a quarter: the coarse ones see whether
the anatomy is plausible, the fine one whether the texture is.
"""

from monai.networks.layers.factories import Pool
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.blocks import check_norm, check_spatial_dims, use_channels_last
from monai_synth.networks.patch import PatchDiscriminator


class MultiScaleDiscriminator(nn.Module):
    """Patch discriminators on an image pyramid.

    The defaults are pix2pixHD's. SPADE's are ``use_spectral_norm=True`` with Xavier start values; the registry has both
    as ``"pix2pixhd_multiscale"`` and ``"spade_multiscale"``. State-dict keys: ``scales.{s}.`` and those of
    :class:`monai_synth.networks.patch.PatchDiscriminator`, full resolution first.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the condition plus channels of the image.
        channels: width of the first layer of every scale; each further layer doubles it.
        num_layers: number of convolutions of stride 2 in every scale. This is ``n_layers_D`` of pix2pixHD (3). SPADE
            counts one layer more: its ``n_layers_D`` 4 is the same depth.
        num_scales: number of discriminators, ``num_D`` of the originals; each sees half the size of the one before.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``; the first layer and the head have none.
        conv_bias: whether the convolutions between the first and the head have a bias: in pix2pixHD all have one, in
            front of batch norm too; in SPADE (``use_spectral_norm``) none in front of a norm.
        use_spectral_norm: normalise the weights between the first layer and the head spectrally, as SPADE does.
        use_sigmoid: return probabilities instead of logits. The losses of this package take logits.
        max_channels: widest layer.
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
        num_scales: int = 2,
        norm: str = "instance",
        conv_bias: bool = True,
        use_spectral_norm: bool = False,
        use_sigmoid: bool = False,
        max_channels: int = 512,
        init_type: str = "normal",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        if num_scales < 1:
            raise ConfigError(f"num_scales={num_scales} leaves no discriminator; choose 1 or more (published: 2 or 3).")
        if num_layers < 1:
            raise ConfigError(
                f"num_layers={num_layers} leaves no layer of stride 2; choose 1 or more (published: 3). "
                "PatchDiscriminator(num_layers=0) judges single pixels, at one scale."
            )
        # Each scale sees half the size before it, rounded up. The last must see two values along each axis: instance
        # norm has no variance on a single one.
        self.min_size = 2 ** (num_scales - 1) + 1
        self.scales = nn.ModuleList(
            PatchDiscriminator(
                spatial_dims=spatial_dims,
                in_channels=in_channels,
                channels=channels,
                num_layers=num_layers,
                norm=norm,
                padding=2,
                max_channels=max_channels,
                conv_bias=conv_bias,
                use_spectral_norm=use_spectral_norm,
                use_sigmoid=use_sigmoid,
                init_type=init_type,
                init_gain=init_gain,
            )
            for _ in range(num_scales)
        )
        self.pool = Pool["avg", spatial_dims](3, stride=2, padding=1, count_include_pad=False)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge an image, usually concatenated with its condition, at every scale.

        Args:
            x: ``(B, in_channels, *spatial)``.

        Returns:
            One inner list per scale, full resolution first: the feature map of every layer, then the logits
            ``(B, 1, *smaller spatial)``.

        Raises:
            GeometryError: if the image is too small for the number of scales.
        """
        if min(x.shape[2:]) < self.min_size:
            raise GeometryError(
                f"The image has size {list(x.shape[2:])}, but a discriminator with num_scales={len(self.scales)} needs "
                f"at least {self.min_size} along each axis. Use larger patches or a smaller num_scales."
            )
        outputs: list[list[Tensor]] = []
        for scale in self.scales:
            if len(outputs) > 0:
                x = self.pool(x)
            outputs.extend(scale(x))
        return outputs

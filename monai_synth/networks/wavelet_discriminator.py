"""The wavelet discriminator of SWAGAN (Gal et al. 2021) as USIS (Eskandar et al. 2023) uses it, in 2D and 3D.

It sees the whole image at every scale as Haar coefficients, and gives one value per image.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.blocks import check_spatial_dims, use_channels_last
from monai_synth.networks.equalized import Blur, EqualizedConv, EqualizedLinear, append_minibatch_deviation
from monai_synth.networks.haar import HaarDown

_SMALLEST = 16  # gives one halving block and a last map of 4


class _HalvingBlock(nn.Module):
    """Convolution, blur, convolution with stride 2."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = EqualizedConv(
            spatial_dims=spatial_dims, in_channels=in_channels, out_channels=in_channels, kernel_size=3, padding=1
        )
        self.blur = Blur(spatial_dims=spatial_dims, channels=in_channels, padding=2)
        self.conv_down = EqualizedConv(
            spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels, kernel_size=3, stride=2
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_down(self.blur(self.conv(x)))


class WaveletDiscriminator(nn.Module):
    """Judges whole images; the pyramid of the image is added at every scale as Haar coefficients.

    State-dict keys: ``stem``, ``blocks.{i}.conv|conv_down``, ``from_image.{i}`` (added behind block ``i``),
    ``last_conv``, ``linear``, ``head``. Start values are ``N(0, 1)``, see :mod:`monai_synth.networks.equalized`.

    The images of a batch meet: one channel tells how much they differ, by which a discriminator notices a generator
    that always draws the same.

    Args:
        spatial_dims: 2 for slices, 3 for volumes (8 bands instead of 4; not published).
        in_channels: of the image, and of a condition if there is one.
        image_size: of the images; others are refused. There are ``log2(longest side) - 3`` blocks, rounded down;
            the Haar transform halves once more, and the linear layer takes what is left: 4 x 4 for 256 x 256, 2 x 4
            for 256 x 512.
        channels: width of the first block; published: 128 for a longest side of 256, 64 for 512.
        max_channels: block ``i`` has ``min(channels * 2**(i + 1), max_channels)`` from the second on; published: 512.
        channels_last: see :func:`monai_synth.networks.blocks.use_channels_last`.

    Raises:
        ConfigError: for a size that does not fit the depth, or another option out of range.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int = 3,
        image_size: Sequence[int] = (256, 256),
        channels: int = 128,
        max_channels: int = 512,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.image_size = [int(length) for length in image_size]
        if len(self.image_size) != spatial_dims or max(self.image_size) < _SMALLEST:
            raise ConfigError(
                f"image_size={self.image_size} does not fit: give {spatial_dims} sizes, the longest at least "
                f"{_SMALLEST} (published: 256, 256)."
            )
        num_blocks = max(self.image_size).bit_length() - 4  # log2, rounded down, less 3
        halvings = 2 ** (num_blocks + 1)
        if any(length % halvings or length == 0 for length in self.image_size):
            raise ConfigError(
                f"image_size={self.image_size} does not fit: this discriminator halves it {num_blocks + 1} times, so "
                f"each size must be a multiple of {halvings}. Pad or crop the images (published: 256, 256)."
            )
        widths = [channels] + [min(channels * 2 ** (i + 1), max_channels) for i in range(1, num_blocks + 1)]
        self.haar = HaarDown()
        self.image_down = Blur(spatial_dims=spatial_dims, channels=in_channels, padding=1, stride=2)
        self.stem = self._make_from_image(spatial_dims, in_channels, widths[0])
        self.blocks = nn.ModuleList(
            _HalvingBlock(spatial_dims=spatial_dims, in_channels=widths[i], out_channels=widths[i + 1])
            for i in range(num_blocks)
        )
        self.from_image = nn.ModuleList(self._make_from_image(spatial_dims, in_channels, width) for width in widths[1:])
        last = widths[-1]
        self.last_conv = EqualizedConv(
            spatial_dims=spatial_dims, in_channels=last + 1, out_channels=last, kernel_size=3, padding=1
        )
        num_positions = math.prod(length // halvings for length in self.image_size)
        self.linear = EqualizedLinear(last * num_positions, last, has_activation=True)
        self.head = EqualizedLinear(last, 1, has_activation=False)
        if channels_last:
            use_channels_last(self, spatial_dims)

    @staticmethod
    def _make_from_image(spatial_dims: int, in_channels: int, width: int) -> EqualizedConv:
        """From the Haar coefficients of an image to features."""
        num_bands = 2**spatial_dims
        return EqualizedConv(
            spatial_dims=spatial_dims, in_channels=num_bands * in_channels, out_channels=width, kernel_size=1
        )

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge an image.

        Args:
            x: ``(B, in_channels, *image_size)``.

        Returns:
            One inner list (one scale): the feature map of every block, then the logits ``(B, 1)``.

        Raises:
            GeometryError: if the image has another size than the network was built for.
        """
        if list(x.shape[2:]) != self.image_size:
            raise GeometryError(
                f"The image has size {list(x.shape[2:])}, but this discriminator was built for {self.image_size}. "
                "Crop or pad the images, or build it with image_size."
            )
        outputs: list[Tensor] = []
        features = self.stem(self.haar(x))
        for block, from_image in zip(self.blocks, self.from_image, strict=True):
            features = block(features)
            outputs.append(features)
            x = self.image_down(x)
            features = features + from_image(self.haar(x))
        features = self.last_conv(append_minibatch_deviation(features))
        outputs.append(self.head(self.linear(features.flatten(1))))
        return [outputs]

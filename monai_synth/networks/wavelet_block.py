"""The residual block of USIS (Eskandar et al. 2023): convolutions see Haar coefficients, normalisations the image."""

from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.networks.haar import HaarDown, HaarUp
from monai_synth.networks.spade_block import SpadeNorm
from monai_synth.networks.spectral_norm import spectral_norm


class ResidualWaveletBlock(nn.Module):
    """Twice SPADE on the image of the coefficients, LeakyReLU and convolution, beside a shortcut without a norm.

    State-dict keys: ``norm_0|norm_1``, ``conv_0|conv_1|conv_s``; the shortcut is learned where the number of channels
    changes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input, a multiple of the number of bands (4 in 2D, 8 in 3D).
        out_channels: of the output, likewise.
        condition_channels: of the condition.
        hidden_channels: see :class:`monai_synth.networks.spade_block.SpadeNorm`.
        kernel_size: see there.
        norm: see there.
        use_spectral_norm: normalise the weights of the three convolutions spectrally.
        has_doubling: double the size at the end: the shortcut as an image, linearly; the rest by the nearest
            coefficient.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        condition_channels: int,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        use_spectral_norm: bool = True,
        has_doubling: bool = True,
    ):
        super().__init__()
        conv = Conv["conv", spatial_dims]
        middle = min(in_channels, out_channels)

        def make_norm(channels: int) -> SpadeNorm:
            return SpadeNorm(
                spatial_dims=spatial_dims,
                channels=channels // 2**spatial_dims,
                condition_channels=condition_channels,
                hidden_channels=hidden_channels,
                kernel_size=kernel_size,
                norm=norm,
            )

        def make_conv(channels: int, width: int, kernel: int, *, bias: bool = True) -> nn.Module:
            layer = conv(channels, width, kernel, padding=kernel // 2, bias=bias)
            return spectral_norm(layer) if use_spectral_norm else layer

        self.norm_0 = make_norm(in_channels)
        self.conv_0 = make_conv(in_channels, middle, 3)
        self.norm_1 = make_norm(middle)
        self.conv_1 = make_conv(middle, out_channels, 3)
        self.conv_s: nn.Module | None = None
        if in_channels != out_channels:
            self.conv_s = make_conv(in_channels, out_channels, 1, bias=False)
        self.haar_down = HaarDown()
        self.haar_up = HaarUp()
        self.has_doubling = has_doubling
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Refine coefficients.

        Args:
            x: ``(B, in_channels, *spatial)``.
            condition: ``(B, condition_channels, *any spatial)``, resized to twice the size of ``x``.

        Returns:
            ``(B, out_channels, *spatial)``, or twice as large with ``has_doubling``.
        """
        shortcut = x if self.conv_s is None else self.conv_s(x)
        x = self.haar_down(self.norm_0(self.haar_up(x), condition))
        x = self.conv_0(functional.leaky_relu(x, 0.2, inplace=True))
        x = self.haar_down(self.norm_1(self.haar_up(x), condition))
        x = self.conv_1(functional.leaky_relu(x, 0.2, inplace=True))
        if self.has_doubling:
            image = self.haar_up(shortcut)
            image = functional.interpolate(image, scale_factor=2.0, mode=self.mode, align_corners=False)
            shortcut = self.haar_down(image)
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return shortcut + x

"""The style encoder of SPADE (Park et al. 2019), in 2D and 3D: an image becomes a normal distribution of vectors.

With :class:`monai_synth.networks.spade.SPADEGenerator` it makes a VAE: label maps rendered in the style of an image.
"""

from collections.abc import Sequence
from math import ceil, prod

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError
from monai_synth.networks.blocks import build_norm, check_norm, check_spatial_dims, init_weights, use_channels_last
from monai_synth.networks.spectral_norm import spectral_norm

_MAX_MULTIPLE = 8
_PUBLISHED_SIZE = 256


class _EncoderLayer(nn.Module):
    """Halve: 3x3 convolution of stride 2, norm, LeakyReLU."""

    def __init__(self, *, spatial_dims: int, in_channels: int, out_channels: int, norm: str, use_spectral_norm: bool):
        super().__init__()
        conv = Conv["conv", spatial_dims](in_channels, out_channels, 3, stride=2, padding=1, bias=norm == "none")
        self.conv = spectral_norm(conv) if use_spectral_norm else conv
        self.norm = build_norm(norm, spatial_dims=spatial_dims, channels=out_channels)
        self.act = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class StyleEncoder(nn.Module):
    """Encoder of SPADE: mean and log variance of the vector that an image starts from.

    Layer ``i`` has ``channels * min(2**i, 8)`` channels. State-dict keys: ``layers.{i}.conv|norm``, ``mu``,
    ``logvar``.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        in_channels: channels of the image.
        noise_channels: width of the vector, ``noise_channels`` of the generator.
        channels: width of the first layer.
        num_layers: number of halvings; published: 6.
        image_size: of the images that the last layer is built for; images of another size are resized linearly.
            ``None`` is 256 along each axis, as published.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``; the convolutions have a bias with ``"none"``
            only.
        use_spectral_norm: normalise the weights of the convolutions spectrally.
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
        noise_channels: int = 256,
        channels: int = 64,
        num_layers: int = 6,
        image_size: Sequence[int] | None = None,
        norm: str = "instance",
        use_spectral_norm: bool = True,
        init_type: str = "xavier",
        init_gain: float = 0.02,
        channels_last: bool = False,
    ):
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_norm(norm)
        if num_layers < 1:
            raise ConfigError(
                f"num_layers={num_layers} leaves nothing to encode with; choose 1 or more (published: 6)."
            )
        sizes = [_PUBLISHED_SIZE] * spatial_dims if image_size is None else list(image_size)
        if len(sizes) != spatial_dims or min(sizes) < 1:
            raise ConfigError(
                f"image_size={sizes} is no size with spatial_dims={spatial_dims}; give one positive number per axis "
                "(published: 256 and 256)."
            )
        num_values = prod(ceil(length / 2**num_layers) for length in sizes)
        if num_values == 1 and norm == "instance":
            raise ConfigError(
                f"image_size={sizes} is one value per channel after num_layers={num_layers}, which instance norm "
                "cannot normalise. Use fewer layers, a larger image_size or another norm."
            )
        self.image_size = sizes
        self.resize_mode = "bilinear" if spatial_dims == 2 else "trilinear"
        widths = [channels * min(2**i, _MAX_MULTIPLE) for i in range(num_layers)]
        self.layers = nn.ModuleList(
            _EncoderLayer(
                spatial_dims=spatial_dims,
                in_channels=widths[i - 1] if i else in_channels,
                out_channels=width,
                norm=norm,
                use_spectral_norm=use_spectral_norm,
            )
            for i, width in enumerate(widths)
        )
        self.mu = nn.Linear(widths[-1] * num_values, noise_channels)
        self.logvar = nn.Linear(widths[-1] * num_values, noise_channels)
        init_weights(self, init_type, init_gain)
        if channels_last:
            use_channels_last(self, spatial_dims)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            image: ``(B, in_channels, *spatial)`` in [-1, 1].

        Returns:
            Mean and logarithm of the variance, each ``(B, noise_channels)``, in float32 also under autocast.
        """
        x = image
        if list(x.shape[2:]) != self.image_size:
            x = functional.interpolate(x, size=self.image_size, mode=self.resize_mode, align_corners=False)
        for layer in self.layers:
            x = layer(x)
        x = x.flatten(1)
        return self.mu(x).float(), self.logvar(x).float()

    @staticmethod
    def sample(mu: Tensor, logvar: Tensor) -> Tensor:
        """Draw the noise of the generator so that gradients reach both (reparametrisation, Kingma & Welling 2014).

        Args:
            mu: ``(B, noise_channels)``.
            logvar: ``(B, noise_channels)``.

        Returns:
            ``(B, noise_channels)``.
        """
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(logvar)

"""Spatially adaptive normalisation (SPADE, Park et al. 2019) and the residual block around it, in 2D and 3D.

MONAI's SPADE block is not used: it normalises its own scale and shift, which removes the label-wise level that SPADE
exists to inject.
"""

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.networks.blocks import build_norm
from monai_synth.networks.small_maps import conv_type
from monai_synth.networks.spectral_norm import spectral_norm


def resize_nearest(x: Tensor, size: list[int]) -> Tensor:
    """Resize ``(B, C, *spatial)`` by the nearest value; the same tensor where the size fits already."""
    if list(x.shape[2:]) == size:
        return x
    return functional.interpolate(x, size=size, mode="nearest")


class SpadeNorm(nn.Module):
    """Normalise, then scale and shift by maps that are convolved from the condition.

    State-dict keys: ``norm`` (running statistics of batch norm), ``shared``, ``gamma``, ``beta``.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features.
        condition_channels: of the condition (one-hot labels, noise and edges included).
        hidden_channels: width between condition and maps; published: 128.
        kernel_size: of the three convolutions; published: 3.
        norm: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``, without parameters of its own.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        channels: int,
        condition_channels: int,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
    ):
        super().__init__()
        conv, padding = Conv["conv", spatial_dims], kernel_size // 2
        self.norm = build_norm(norm, spatial_dims=spatial_dims, channels=channels, affine=False)
        self.shared = conv(condition_channels, hidden_channels, kernel_size, padding=padding)
        self.gamma = conv(hidden_channels, channels, kernel_size, padding=padding)
        self.beta = conv(hidden_channels, channels, kernel_size, padding=padding)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Modulate features.

        Args:
            x: ``(B, channels, *spatial)``.
            condition: ``(B, condition_channels, *any spatial)``, resized to ``x`` by the nearest value.

        Returns:
            As ``x``.
        """
        hidden = functional.relu(self.shared(resize_nearest(condition, list(x.shape[2:]))), inplace=True)
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class SpadeResBlock(nn.Module):
    """Residual block of SPADE and OASIS: twice SPADE, LeakyReLU and convolution, beside a shortcut.

    State-dict keys: ``norm_0|norm_1|norm_s``, ``conv_0|conv_1|conv_s``; the shortcut is learned where the number of
    channels changes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input.
        out_channels: of the output.
        condition_channels: of the condition.
        edge_channels: of an edge map that is put beside the features before every normalisation; published: 0.
        hidden_channels: see :class:`SpadeNorm`.
        kernel_size: see :class:`SpadeNorm`.
        norm: see :class:`SpadeNorm`.
        use_spectral_norm: normalise the weights of the three convolutions spectrally.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        condition_channels: int,
        edge_channels: int = 0,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        use_spectral_norm: bool = True,
    ):
        super().__init__()
        conv = conv_type(spatial_dims)
        middle = min(in_channels, out_channels)

        def make_norm(channels: int) -> SpadeNorm:
            return SpadeNorm(
                spatial_dims=spatial_dims,
                channels=channels + edge_channels,
                condition_channels=condition_channels,
                hidden_channels=hidden_channels,
                kernel_size=kernel_size,
                norm=norm,
            )

        wrap = spectral_norm if use_spectral_norm else _leave
        self.norm_0 = make_norm(in_channels)
        self.conv_0 = wrap(conv(in_channels + edge_channels, middle, 3, padding=1))
        self.norm_1 = make_norm(middle)
        self.conv_1 = wrap(conv(middle + edge_channels, out_channels, 3, padding=1))
        self.norm_s: nn.Module | None = None
        self.conv_s: nn.Module | None = None
        if in_channels != out_channels:
            self.norm_s = make_norm(in_channels)
            self.conv_s = wrap(conv(in_channels + edge_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor, condition: Tensor, edges: Tensor | None = None) -> Tensor:
        """Refine features.

        Args:
            x: ``(B, in_channels, *spatial)``.
            condition: ``(B, condition_channels, *any spatial)``.
            edges: ``(B, edge_channels, *any spatial)``, where the block was built for them.

        Returns:
            ``(B, out_channels, *spatial)``.
        """
        shortcut = x
        if self.norm_s is not None and self.conv_s is not None:
            shortcut = self.conv_s(self.norm_s(_join(x, edges), condition))
        x = self.conv_0(functional.leaky_relu(self.norm_0(_join(x, edges), condition), 0.2, inplace=True))
        x = self.conv_1(functional.leaky_relu(self.norm_1(_join(x, edges), condition), 0.2, inplace=True))
        return shortcut + x


def _leave(layer: nn.Module) -> nn.Module:
    return layer


def _join(x: Tensor, edges: Tensor | None) -> Tensor:
    if edges is None:
        return x
    return torch.cat([x, resize_nearest(edges, list(x.shape[2:]))], dim=1)

"""The wavelet networks of USIS as bare layer lists in plain PyTorch, to be timed beside ours.

Filters are applied as the publication does, one `upfirdn` per sub-band.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.plain_networks import _Spade, spectral_norm

_BANDS = [[[0.5, 0.5], [0.5, 0.5]], [[-0.5, -0.5], [0.5, 0.5]], [[-0.5, 0.5], [-0.5, 0.5]], [[0.5, -0.5], [-0.5, 0.5]]]


def upfirdn(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, filter, keep every ``down``-th value."""
    batch, channels, height, width = x.shape
    x = x.reshape(-1, 1, height, width)
    if up > 1:
        grown = x.new_zeros(len(x), 1, height, up, width, up)
        grown[:, :, :, 0, :, 0] = x
        x = grown.reshape(-1, 1, height * up, width * up)
    x = functional.conv2d(functional.pad(x, [*pad, *pad]), kernel.flip(0, 1)[None, None])
    x = x[:, :, ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


class Haar(nn.Module):
    """Haar transform and its inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.tensor(_BANDS))

    def forward(self, x: Tensor) -> Tensor:
        """Image to sub-bands."""
        return torch.cat([upfirdn(x, kernel, down=2) for kernel in self.kernels], 1)

    def inverse(self, x: Tensor) -> Tensor:
        """Sub-bands to image."""
        signs = (1, -1, -1, 1)
        bands = zip(x.chunk(4, 1), self.kernels, signs, strict=True)
        return torch.stack([upfirdn(band, sign * kernel, up=2, pad=(1, 0)) for band, kernel, sign in bands]).sum(0)


class _WaveletSpade(_Spade):
    def __init__(self, width: int, labels: int):
        super().__init__(width // 4, labels)
        self.haar = Haar()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.haar(super().forward(self.haar.inverse(x), labels))


class _WaveletBlock(nn.Module):
    def __init__(self, a: int, b: int, labels: int):
        super().__init__()
        self.conv_0 = spectral_norm(nn.Conv2d(a, min(a, b), 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(min(a, b), b, 3, padding=1))
        self.norm_0, self.norm_1 = _WaveletSpade(a, labels), _WaveletSpade(min(a, b), labels)
        self.conv_s = spectral_norm(nn.Conv2d(a, b, 1, bias=False)) if a != b else None

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = x if self.conv_s is None else self.conv_s(x)
        dx = self.conv_0(functional.leaky_relu(self.norm_0(x, labels), 0.2))
        return shortcut, self.conv_1(functional.leaky_relu(self.norm_1(dx, labels), 0.2))


class ResidualWaveletGenerator(nn.Module):
    """The generator of USIS with wavelets."""

    def __init__(self, labels: int, noise: int = 64):
        super().__init__()
        widths = [1024, 1024, 1024, 512, 256, 128, 64]
        self.noise, self.haar = noise, Haar()
        self.fc = nn.Conv2d(labels + noise, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_WaveletBlock(widths[i], widths[i + 1], labels + noise) for i in range(6))
        self.to_rgb = nn.Conv2d(64, 12, 1)

    def forward(self, labels: Tensor) -> Tensor:
        """Run the network."""
        z = torch.randn(len(labels), self.noise, 1, 1).expand(-1, -1, *labels.shape[2:])
        labels = torch.cat([z, labels], 1)
        x = self.fc(functional.interpolate(labels, size=[size // 64 for size in labels.shape[2:]]))
        for i, block in enumerate(self.blocks):
            shortcut, dx = block(x, labels)
            if i < 5:
                image = functional.interpolate(self.haar.inverse(shortcut), scale_factor=2, mode="bilinear")
                x = functional.interpolate(dx, scale_factor=2) + self.haar(image)
            else:
                x = shortcut + dx
        return torch.tanh(self.haar.inverse(self.to_rgb(x)))


class _EqualConv(nn.Module):
    def __init__(self, a: int, b: int, kernel: int, *, stride: int = 1, has_blur: bool = False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(b, a, kernel, kernel)), nn.Parameter(torch.zeros(b))
        self.scale, self.stride = 1 / math.sqrt(a * kernel**2), stride
        self.padding = 0 if has_blur else kernel // 2
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(taps, taps))
        self.has_blur = has_blur

    def forward(self, x: Tensor) -> Tensor:
        if self.has_blur:
            x = upfirdn(x, self.blur, pad=(2, 2))
        x = functional.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)
        return functional.leaky_relu(x + self.bias.reshape(1, -1, 1, 1), 0.2) * math.sqrt(2)


class WaveletDiscriminator(nn.Module):
    """The discriminator of USIS and system 003 at 256 x 256."""

    def __init__(self) -> None:
        super().__init__()
        widths = [128, 512, 512, 512, 512, 512]
        self.haar = Haar()
        self.from_rgb = nn.ModuleList(_EqualConv(12, width, 1) for width in widths)
        self.convs = nn.ModuleList(
            nn.Sequential(_EqualConv(a, a, 3), _EqualConv(a, b, 3, stride=2, has_blur=True))
            for a, b in pairwise(widths)
        )
        self.last_conv = _EqualConv(513, 512, 3)
        self.linear = nn.Sequential(nn.Linear(8192, 512), nn.LeakyReLU(0.2), nn.Linear(512, 1))
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("blur", torch.outer(taps, taps))

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        bands = self.haar(image)
        x = self.from_rgb[0](bands)
        for i, conv in enumerate(self.convs):
            x = conv(x)
            bands = self.haar(upfirdn(self.haar.inverse(bands), self.blur, down=2, pad=(1, 1)))
            x = x + self.from_rgb[i + 1](bands)
        deviation = torch.sqrt(x.var(0, unbiased=False) + 1e-8).mean()
        x = self.last_conv(torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1))
        out: Tensor = self.linear(x.flatten(1))
        return out

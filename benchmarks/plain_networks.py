"""The published networks as bare layer lists in plain PyTorch, to be timed beside ours.

Written from the publications' tables; random weights. ``benchmarks/networks.py`` checks that parameters and
floating-point operations are those of our networks, so that times can be compared.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm  # the older, hook-based one that SPADE and OASIS were published with


def unet(width: int = 64, num_downs: int = 8, channels: int = 3) -> nn.Module:
    """The pix2pix U-Net: levels nested in one another."""
    block: nn.Module | None = None
    for level in reversed(range(num_downs)):
        outer = width * min(2 ** (level - 1), 8) if level else channels
        inner = width * min(2**level, 8)
        block = _Level(outer, inner, block, is_outermost=level == 0)
    assert block is not None
    return block


class _Level(nn.Module):
    def __init__(self, outer: int, inner: int, inside: nn.Module | None, *, is_outermost: bool):
        super().__init__()
        down: list[nn.Module] = [nn.Conv2d(outer, inner, 4, 2, 1, bias=False)]
        up: list[nn.Module] = [
            nn.ReLU(True),
            nn.ConvTranspose2d(inner * (2 if inside else 1), outer, 4, 2, 1, bias=is_outermost),
        ]
        if not is_outermost:
            down.insert(0, nn.LeakyReLU(0.2, True))
            if inside:
                down.append(nn.BatchNorm2d(inner))
            up.append(nn.BatchNorm2d(outer))
        if inside and not is_outermost and outer == inner:
            up.append(nn.Dropout(0.5))
        if is_outermost:
            up.append(nn.Tanh())
        self.is_outermost = is_outermost
        self.model = nn.Sequential(*down, *([inside] if inside else []), *up)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        out: Tensor = self.model(x)
        return out if self.is_outermost else torch.cat([x, out], 1)


class _ResBlock(nn.Module):
    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=bias),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        return x + self.block(x)


class _BlurDown(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(taps, taps)[None, None].repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, [1, 1, 1, 1], "reflect"), self.filt, stride=2, groups=x.shape[1])


class _BlurUp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(taps, taps)[None, None].repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, [1, 1, 1, 1], "replicate")
        x = functional.conv_transpose2d(x, self.filt, stride=2, padding=2, groups=x.shape[1])
        return x[:, :, 1:-1, 1:-1]


def resnet(
    in_channels: int = 3, width: int = 64, num_downs: int = 2, num_blocks: int = 9, *, is_antialiased: bool = False
) -> nn.Sequential:
    """CycleGAN's ResNet (2 halvings), CUT's (antialiased) and pix2pixHD's global generator (4)."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, width, 7), nn.InstanceNorm2d(width)]
    layers.append(nn.ReLU(True))
    for i in range(num_downs):
        w = width * 2**i
        layers += [nn.Conv2d(w, 2 * w, 3, 1 if is_antialiased else 2, 1), nn.InstanceNorm2d(2 * w), nn.ReLU(True)]
        layers += [_BlurDown(2 * w)] if is_antialiased else []
    layers += [_ResBlock(width * 2**num_downs) for _ in range(num_blocks)]
    for i in reversed(range(num_downs)):
        w = width * 2**i
        if is_antialiased:
            layers += [_BlurUp(2 * w), nn.Conv2d(2 * w, w, 3, 1, 1)]
        else:
            layers.append(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1))
        layers += [nn.InstanceNorm2d(w), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


class LocalEnhancer(nn.Module):
    """pix2pixHD's second generator around its first."""

    def __init__(self, in_channels: int = 36, width: int = 32):
        super().__init__()
        self.trunk = resnet(in_channels, 2 * width, 4, 9)[:-3]
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.down = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, width, 7),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.InstanceNorm2d(2 * width),
            nn.ReLU(True),
        )
        self.up = nn.Sequential(
            *[_ResBlock(2 * width) for _ in range(3)],
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        out: Tensor = self.up(self.down(x) + self.trunk(self.pool(x)))
        return out


def patch_layers(
    in_channels: int, *, padding: int, norm: str, use_spectral_norm: bool = False, width: int = 64
) -> nn.ModuleList:
    """The five convolutions of a patch discriminator."""
    layers = nn.ModuleList([nn.Sequential(nn.Conv2d(in_channels, width, 4, 2, padding), nn.LeakyReLU(0.2, True))])
    for i, (a, b) in enumerate(pairwise([width, 2 * width, 4 * width, 8 * width])):
        has_bias = norm == "instance" and not use_spectral_norm
        conv = nn.Conv2d(a, b, 4, 2 if i < 2 else 1, padding, bias=has_bias)
        layers.append(
            nn.Sequential(
                spectral_norm(conv) if use_spectral_norm else conv,
                nn.BatchNorm2d(b) if norm == "batch" else nn.InstanceNorm2d(b),
                nn.LeakyReLU(0.2, True),
            )
        )
    layers.append(nn.Sequential(nn.Conv2d(8 * width, 1, 4, 1, padding)))
    return layers


class PatchDiscriminators(nn.Module):
    """One patch discriminator, or one per scale."""

    def __init__(self, in_channels: int, *, num_scales: int, **options: Any):
        super().__init__()
        self.scales = nn.ModuleList(patch_layers(in_channels, **options) for _ in range(num_scales))
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Run the network."""
        scales = []
        for layers in self.scales:
            features, y = [], x
            for layer in layers:
                y = layer(y)
                features.append(y)
            scales.append(features)
            x = self.pool(x)
        return scales


class Spade(nn.Module):
    """Scale and shift by maps of the labels; ``is_joined`` computes both by one convolution, as a measure for speed."""

    is_joined = False

    def __init__(self, width: int, labels: int, hidden: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.shared = nn.Sequential(nn.Conv2d(labels, hidden, 3, padding=1), nn.ReLU())
        self.gamma = nn.Conv2d(hidden, width, 3, padding=1)
        self.beta = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Run the layer."""
        hidden = self.shared(functional.interpolate(labels, size=x.shape[2:], mode="nearest"))
        if self.is_joined:
            weight = torch.cat([self.gamma.weight, self.beta.weight])
            bias = torch.cat([_bias(self.gamma), _bias(self.beta)])
            gamma, beta = functional.conv2d(hidden, weight, bias, padding=1).chunk(2, 1)
            return self.norm(x) * (1 + gamma) + beta
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class _SpadeBlock(nn.Module):
    def __init__(self, a: int, b: int, labels: int, hidden: int):
        super().__init__()
        self.has_shortcut, middle = a != b, min(a, b)
        self.conv_0 = spectral_norm(nn.Conv2d(a, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, b, 3, padding=1))
        self.norm_0, self.norm_1 = Spade(a, labels, hidden), Spade(middle, labels, hidden)
        if self.has_shortcut:
            self.conv_s, self.norm_s = spectral_norm(nn.Conv2d(a, b, 1, bias=False)), Spade(a, labels, hidden)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        shortcut = self.conv_s(self.norm_s(x, labels)) if self.has_shortcut else x
        dx = self.conv_0(functional.leaky_relu(self.norm_0(x, labels), 0.2))
        return shortcut + self.conv_1(functional.leaky_relu(self.norm_1(dx, labels), 0.2))


class SpadeGenerator(nn.Module):
    """SPADE (7 blocks) and OASIS (6 blocks, noise in front of the labels)."""

    def __init__(
        self,
        labels: int,
        *,
        noise: int = 0,
        multiples: tuple[int, ...] = (16, 16, 16, 16, 8, 4, 2, 1),
        width: int = 64,
        hidden: int = 128,
    ):
        super().__init__()
        widths = [width * multiple for multiple in multiples]
        self.noise = noise
        self.fc = nn.Conv2d(labels + noise, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_SpadeBlock(a, b, labels + noise, hidden) for a, b in pairwise(widths))
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        """Run the network."""
        if self.noise:
            z = torch.randn(len(labels), self.noise, 1, 1).expand(-1, -1, *labels.shape[2:])
            labels = torch.cat([z, labels], 1)
        x = self.fc(functional.interpolate(labels, size=[size // 32 for size in labels.shape[2:]]))
        for i, block in enumerate(self.blocks):
            x = block(x, labels)
            # SPADE's two middle blocks share a resolution; the last block has none to grow to.
            if i < len(self.blocks) - 1 and not (len(self.blocks) == 7 and i == 1):
                x = functional.interpolate(x, scale_factor=2)
        return torch.tanh(self.conv_img(functional.leaky_relu(x, 0.2)))


class OasisDiscriminator(nn.Module):
    """The segmenting U-Net of OASIS."""

    def __init__(self, classes: int, width: int = 128):
        super().__init__()
        down = [3, *(width * multiple for multiple in (1, 1, 2, 2, 4, 4))]
        up = [width * multiple for multiple in (4, 4, 2, 2, 1, 1)] + [width // 2]
        self.down = nn.ModuleList(_OasisDown(down[i], down[i + 1], is_first=i == 0) for i in range(6))
        self.up = nn.ModuleList(_OasisUp(up[i] * (2 if i else 1), up[i + 1]) for i in range(6))
        self.last = nn.Conv2d(width // 2, classes + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for i, block in enumerate(self.up):
            x = block(torch.cat([skips.pop(), x], 1) if i else x)
        return self.last(x)


class _OasisDown(nn.Module):
    def __init__(self, a: int, b: int, *, is_first: bool):
        super().__init__()
        self.is_first, self.has_shortcut = is_first, a != b
        first = spectral_norm(nn.Conv2d(a, b, 3, padding=1))
        self.conv1 = nn.Sequential(first) if is_first else nn.Sequential(nn.LeakyReLU(0.2), first)
        self.conv2 = nn.Sequential(nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(b, b, 3, padding=1)))
        if self.has_shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        pooled = functional.avg_pool2d(self.conv2(self.conv1(x)), 2)
        if self.is_first:
            return pooled + self.conv_s(functional.avg_pool2d(x, 2))
        return pooled + functional.avg_pool2d(self.conv_s(x) if self.has_shortcut else x, 2)


class _OasisUp(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.has_shortcut = a != b
        self.conv1 = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), spectral_norm(nn.Conv2d(a, b, 3, padding=1))
        )
        self.conv2 = nn.Sequential(nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(b, b, 3, padding=1)))
        if self.has_shortcut:
            self.conv_s = spectral_norm(nn.Conv2d(a, b, 1))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.interpolate(x, scale_factor=2)
        return (self.conv_s(shortcut) if self.has_shortcut else shortcut) + self.conv2(self.conv1(x))


class LggUnet(nn.Module):
    """The U-Net of Buda et al. 2019."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 32, 64, 128, 256, 512]
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in (256, 128, 64, 32))
        self.up = nn.ModuleList(_double(2 * w, w) for w in (256, 128, 64, 32))
        self.conv = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([grow(x), skips.pop()], 1))
        return torch.sigmoid(self.conv(x))


def _double(a: int, b: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (a, b):
        layers += [nn.Conv2d(width, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(True)]
    return nn.Sequential(*layers)

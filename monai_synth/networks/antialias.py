"""Halve and double without aliasing (Zhang 2019), as CUT does: low-pass first, then drop every second value.

The kernels are fixed; nothing of them is learned or written to a state dict.
"""

import torch
from torch import Tensor, nn

from monai_synth.networks.blocks import check_spatial_dims

BLUR_DOWN_TAPS = (1.0, 2.0, 1.0)
BLUR_UP_TAPS = (1.0, 3.0, 3.0, 1.0)


def blur_kernel(taps: tuple[float, ...], *, spatial_dims: int) -> Tensor:
    """The separable kernel with these taps along every axis, ``(len(taps), ) * spatial_dims``, with sum 1."""
    line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    kernel = line
    for _ in range(spatial_dims - 1):
        kernel = kernel.unsqueeze(-1) * line
    return kernel


class BlurDown(nn.Module):
    """Halve: reflect one value at the border, blur with ``[1, 2, 1] / 4`` along each axis, keep every second value.

    An odd size is rounded up. Each size must be 2 or more.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
        channels: number of channels, each blurred by itself.
    """

    kernel: Tensor

    def __init__(self, *, spatial_dims: int, channels: int):
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.spatial_dims = spatial_dims
        self.channels = channels
        self.pad = nn.ReflectionPad2d(1) if spatial_dims == 2 else nn.ReflectionPad3d(1)
        kernel = blur_kernel(BLUR_DOWN_TAPS, spatial_dims=spatial_dims)
        # A constant: neither a parameter nor an entry of the state dict.
        self.register_buffer("kernel", kernel.expand(channels, 1, *kernel.shape).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve ``(B, channels, *spatial)``."""
        x = self.pad(x)
        if self.spatial_dims == 2:
            return nn.functional.conv2d(x, self.kernel, stride=2, groups=self.channels)
        return nn.functional.conv3d(x, self.kernel, stride=2, groups=self.channels)


class BlurUp(nn.Module):
    """Double: repeat the border, put a zero behind every value, blur with ``[1, 3, 3, 1] / 4`` along each axis.

    That is linear interpolation: every new value lies a quarter of the way from one old value to the next. It is
    computed as such, without the padded copy and the cropped one of the original's transposed convolution.

    Args:
        spatial_dims: 2 for slices, 3 for volumes.
    """

    def __init__(self, *, spatial_dims: int):
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        """Double ``(B, C, *spatial)``."""
        return nn.functional.interpolate(x, scale_factor=2.0, mode=self.mode, align_corners=False)

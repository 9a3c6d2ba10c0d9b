"""Layers of StyleGAN2 (Karras et al. 2020), in 2D and 3D: equalised learning rates, blur, minibatch deviation.

Equalised: weights start as ``N(0, 1)`` and are divided by ``sqrt(fan_in)`` at run time, so that Adam moves every layer
at the same relative speed. The start values are part of the method; there is no choice of others.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.networks.antialias import blur_kernel
from monai_synth.networks.blocks import is_scripting

_GAIN = math.sqrt(2)  # about what LeakyReLU(0.2) takes from the standard deviation
BLUR_TAPS = (1.0, 3.0, 3.0, 1.0)


class EqualizedConv(nn.Module):
    """Convolution and ``sqrt(2) * LeakyReLU(0.2)``.

    State-dict keys: ``weight``, ``bias`` ``(1, out_channels, 1, ..)``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd.
        stride: of the convolution.
        padding: zeros on every side.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
    ):
        super().__init__()
        self.spatial_dims = spatial_dims
        self.stride = stride
        self.padding = padding
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *[kernel_size] * spatial_dims))
        self.bias = nn.Parameter(torch.zeros(1, out_channels, *[1] * spatial_dims))
        # LeakyReLU is homogeneous: the gain behind it can as well be in front, where the tensors are small.
        self.gain = _GAIN
        self.scale = _GAIN / math.sqrt(in_channels * kernel_size**spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, in_channels, *spatial)``."""
        weight, bias = self.weight * self.scale, self.bias.flatten() * self.gain
        if self.spatial_dims == 2:
            x = functional.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)
        else:
            x = functional.conv3d(x, weight, bias, stride=self.stride, padding=self.padding)
        return functional.leaky_relu(x, 0.2, inplace=True)


class EqualizedLinear(nn.Module):
    """Linear layer, followed by ``sqrt(2) * LeakyReLU(0.2)`` unless it is the last.

    Args:
        in_features: of the input.
        out_features: of the output.
        has_activation: whether the activation follows.
    """

    def __init__(self, in_features: int, out_features: int, *, has_activation: bool):
        super().__init__()
        self.has_activation = has_activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.gain = _GAIN if has_activation else 1.0
        self.scale = self.gain / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_features)``."""
        x = functional.linear(x, self.weight * self.scale, self.bias * self.gain)
        return functional.leaky_relu(x, 0.2, inplace=True) if self.has_activation else x


class Blur(nn.Module):
    """Blur with ``[1, 3, 3, 1] / 8`` along each axis, zeros outside; with stride 2 it halves the size.

    Args:
        spatial_dims: 2 or 3.
        channels: number of channels, each blurred by itself.
        padding: zeros on every side: 1 halves with ``stride=2``; 2 leaves ``size + 1``, which a convolution with a
            kernel of 3 and stride 2 halves.
        stride: 1 or 2.
    """

    kernel: Tensor

    def __init__(self, *, spatial_dims: int, channels: int, padding: int, stride: int = 1):
        super().__init__()
        self.padding = padding
        self.stride = stride
        kernel = blur_kernel(BLUR_TAPS, spatial_dims=spatial_dims)
        # A constant: neither a parameter nor an entry of the state dict.
        self.register_buffer("kernel", kernel.expand(channels, 1, *kernel.shape).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Blur ``(B, channels, *spatial)``."""
        if is_scripting() or self.stride != 1:
            return _blur(x, self.kernel, self.stride, self.padding)
        blurred: Tensor = _BlurOperator.apply(x, self.kernel, self.padding)
        return blurred


class _BlurOperator(torch.autograd.Function):
    """A blur whose gradient is a blur.

    The same as autograd gives, but the second derivative (of an R1 penalty) does not go through the gradient of the
    kernel: torch computes that one group after the other, for every channel, though nobody asks for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.padding = padding
        return _blur(x, kernel, 1, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        # The kernel is symmetric: its adjoint is itself, with what is missing of the full padding.
        return _BlurOperator.apply(grad, kernel, len(BLUR_TAPS) - 1 - ctx.padding), None, None


def _blur(x: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    kernel = kernel.to(x.dtype)
    if x.ndim == 4:
        return functional.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])
    return functional.conv3d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def append_minibatch_deviation(x: Tensor, max_group: int = 4) -> Tensor:
    """Append one channel that tells how much the images of a group differ (Karras et al. 2018).

    Groups have ``max_group`` images, or as many fewer as divide the batch evenly; a batch that no such number divides
    (5 or 7, say) is one group, so that its images are compared at all. The channel holds, everywhere, the standard
    deviation over the group, averaged over channels and positions.

    Args:
        x: ``(B, C, *spatial)``.
        max_group: largest number of images that are compared; published: 4.

    Returns:
        ``(B, C + 1, *spatial)``.
    """
    batch = x.shape[0]
    group = min(batch, max_group)
    while batch % group != 0:
        group -= 1
    if group == 1:
        group = batch
    # Image i is in a group with i + batch / group, i + 2 * batch / group, ...
    groups = x.float().reshape(group, batch // group, -1)
    deviation = torch.sqrt(groups.var(dim=0, unbiased=False) + 1e-8).mean(dim=1).to(x.dtype)
    column = deviation.repeat(group).reshape([batch] + [1] * (x.ndim - 1))
    return torch.cat([x, column.expand_as(x[:, :1])], dim=1)

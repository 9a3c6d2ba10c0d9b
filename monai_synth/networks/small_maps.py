"""Convolutions of small feature maps as matrix products, where that is faster: bfloat16 on the CPU.

Deep in a generator a convolution has many weights and few pixels: 1024 x 1024 x 9 weights for 16 x 16 pixels in
pix2pixHD. oneDNN repacks the weights at every call, in training several times a step, which takes longer than the
multiplications. A matrix product reads them as they lie and is 1.5 to 3 times as fast.

Everything else (float32, large maps, other devices, scripted, traced and compiled networks) is convolved as usual.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["SmallMapConv2d", "SmallMapConvTranspose2d", "conv_type"]

# Measured: with 1024 pixels, or fewer weights, the convolution is as fast.
_MOST_PIXELS = 256
_FEWEST_WEIGHTS = 2**20


def conv_type(spatial_dims: int, *, transposed: bool = False) -> type[nn.Module]:
    """Convolution of deep layers: one of this module for images, torch's for volumes."""
    if spatial_dims == 2:
        return SmallMapConvTranspose2d if transposed else SmallMapConv2d
    return nn.ConvTranspose3d if transposed else nn.Conv3d


class SmallMapConv2d(nn.Conv2d):
    """``nn.Conv2d`` that multiplies matrices where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            out = self._conv_forward(x, self.weight, self.bias)
        else:
            out = self._convolve(x)
        return out

    @torch.jit.unused
    def _convolve(self, x: Tensor) -> Tensor:
        weight = self.weight  # once: a spectral norm computes it, and moves
        if not _pays(self, x, weight):
            return self._conv_forward(x, weight, self.bias)
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, (int(p) for p in self.padding)
        size = ((x.shape[2] + 2 * ph - kh) // sh + 1, (x.shape[3] + 2 * pw - kw) // sw + 1)
        if not 0 < len(x) * size[0] * size[1] <= _MOST_PIXELS:
            return self._conv_forward(x, weight, self.bias)
        with torch.autocast("cpu", enabled=False):
            # Cut in float32, so that the backward pass sums in float32, as that of a convolution does.
            columns = functional.unfold(x.float(), (kh, kw), padding=(ph, pw), stride=(sh, sw)).to(torch.bfloat16)
            is_last = _is_channels_last(weight)
            if is_last:  # its rows have the channels last as well
                columns = columns.unflatten(1, (-1, kh * kw)).transpose(1, 2).flatten(1, 2)
            columns = columns.transpose(0, 1).flatten(1)
            rows = (weight.movedim(1, -1) if is_last else weight).flatten(1).to(torch.bfloat16)
            if self.bias is None:
                out = torch.mm(rows, columns)
            else:
                out = torch.addmm(self.bias.to(torch.bfloat16)[:, None], rows, columns)
            return _as_images(out.view(-1, len(x), *size), is_last)

    def _get_name(self) -> str:
        return _name_of_torch(self)


class SmallMapConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` that multiplies matrices where that is faster."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """As ``nn.ConvTranspose2d``, without a choice of the output's size."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            out = functional.conv_transpose2d(
                x,
                self.weight,
                self.bias,
                self.stride,
                self.padding,  # type: ignore[arg-type]
                self.output_padding,
                self.groups,
                self.dilation,
            )
        else:
            out = self._convolve(x)
        return out

    @torch.jit.unused
    def _convolve(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not _pays(self, x, weight) or not 0 < x.numel() // x.shape[1] <= _MOST_PIXELS:
            return functional.conv_transpose2d(
                x,
                weight,
                self.bias,
                self.stride,
                self.padding,  # type: ignore[arg-type]
                self.output_padding,
                self.groups,
                self.dilation,
            )
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, (int(p) for p in self.padding)
        add_h, add_w = self.output_padding
        height, width = x.shape[2:]
        size = ((height - 1) * sh - 2 * ph + kh + add_h, (width - 1) * sw - 2 * pw + kw + add_w)
        with torch.autocast("cpu", enabled=False):
            is_last = _is_channels_last(weight)
            rows = (weight.movedim(1, -1) if is_last else weight).flatten(1).to(torch.bfloat16)
            columns = torch.mm(rows.t(), x.to(torch.bfloat16).transpose(0, 1).flatten(1))
            columns = columns.view(-1, len(x), height * width).transpose(0, 1)
            if is_last:
                columns = columns.unflatten(1, (kh * kw, -1)).transpose(1, 2).flatten(1, 2)
            # Summed in float32, as a convolution sums.
            out = functional.fold(columns.float(), size, (kh, kw), padding=(ph, pw), stride=(sh, sw))
            if self.bias is not None:
                out = out + self.bias.float()[:, None, None]
            return _as_images(out.to(torch.bfloat16).transpose(0, 1), is_last)

    def _get_name(self) -> str:
        return _name_of_torch(self)


def _name_of_torch(layer: nn.Module) -> str:
    """The same layer as torch's, in texts and fingerprints."""
    return type(layer).__name__.replace("SmallMap", "")


def _pays(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, weight: Tensor) -> bool:
    """Whether this is a convolution in bfloat16 on the CPU with many weights."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return False
    if x.device.type != "cpu" or x.ndim != 4 or weight.numel() < _FEWEST_WEIGHTS:
        return False
    if torch.is_autocast_enabled("cpu"):
        is_reduced = torch.get_autocast_dtype("cpu") is torch.bfloat16
    else:
        is_reduced = x.dtype is torch.bfloat16 and weight.dtype is torch.bfloat16
    is_plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return is_reduced and is_plain and not isinstance(layer.padding, str)


def _is_channels_last(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def _as_images(out: Tensor, is_last: bool) -> Tensor:
    """``(C, B, H, W)`` to ``(B, C, H, W)``, dense."""
    return out.transpose(0, 1).contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)

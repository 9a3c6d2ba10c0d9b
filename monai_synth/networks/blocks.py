"""Layer choices, start values and size checks that the generators and discriminators share.

Shapes: ``(B, C, *spatial)`` with two or three spatial dimensions.
"""

import math

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.spectral_norm import SpectralNorm, has_spectral_norm

NORMS = ("batch", "instance", "group", "none")
INIT_TYPES = ("normal", "xavier", "kaiming", "orthogonal")
UPSAMPLES = ("transposed", "resize")
_CONV_TYPES = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
is_tracing = torch.jit.is_tracing  # type: ignore[attr-defined]
is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]
_MAX_GROUPS = 32  # the number of groups that Wu & He 2018 (Group Normalization) settle on


def build_norm(norm: str, *, spatial_dims: int, channels: int, affine: bool = True) -> nn.Module:
    """Make a normalisation layer with the options of pix2pix.

    Args:
        norm: ``"batch"`` (affine, running statistics), ``"instance"`` (no parameters, no statistics),
            ``"group"`` (affine; as many groups as divide both ``channels`` and 32) or ``"none"``.
        spatial_dims: 2 or 3.
        channels: number of channels that the layer sees.
        affine: whether batch and group norm learn a scale and a shift; SPADE brings its own.

    Raises:
        ConfigError: if ``norm`` is none of these.
    """
    check_norm(norm)
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        groups = {"num_groups": math.gcd(channels, _MAX_GROUPS), "affine": affine}
        return get_norm_layer(("group", groups), channels=channels)
    options = {"affine": affine} if norm == "batch" else {}
    return get_norm_layer((norm, options), spatial_dims=spatial_dims, channels=channels)


def has_conv_bias(norm: str) -> bool:
    """Whether a convolution in front of this norm has a bias.

    The rule of pix2pix: only in front of instance norm. That bias has no effect on the output, but it is in
    every published file; with ``"none"`` the original has no bias either.
    """
    return norm == "instance"


def check_norm(norm: str) -> None:
    """Refuse a normalisation that is not known."""
    if norm not in NORMS:
        raise ConfigError(f"norm={norm!r} is not known; choose one of {', '.join(NORMS)}.")


def check_upsample(upsample: str) -> None:
    """Refuse a way of doubling the size that is not known."""
    if upsample not in UPSAMPLES:
        raise ConfigError(f"upsample={upsample!r} is not known; choose one of {', '.join(UPSAMPLES)}.")


def check_spatial_dims(spatial_dims: int) -> None:
    """Refuse anything but two or three spatial dimensions."""
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims={spatial_dims!r} is not supported; choose 2 (slices) or 3 (volumes).")


def check_kernel_size(kernel_size: int) -> None:
    """Refuse a kernel without a middle."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size={kernel_size} has no middle; choose an odd number (published: 3).")


def check_positive(**counts: int) -> None:
    """Refuse numbers of channels and the like below 1, by name."""
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name}={count} leaves nothing to compute with; choose 1 or more.")


def check_dimensions(x: Tensor, spatial_dims: int) -> None:
    """Refuse an input of the wrong number of dimensions, or of integers. Can be scripted; a trace does not check."""
    if is_tracing():
        return
    if x.ndim != spatial_dims + 2:
        raise GeometryError(
            f"The input has the shape {list(x.shape)}, but this network takes (B, C, *spatial) with {spatial_dims} "
            "spatial dimensions. A 2D network sees volumes through VolumeInferer(axis=...), a 3D one with axis=None."
        )
    if not x.is_floating_point():
        raise ConfigError(f"The input is of type {x.dtype}; networks compute with floats. Convert it with .float().")


def check_channels(x: Tensor, in_channels: int, spatial_dims: int) -> None:
    """Refuse an input of the wrong number of dimensions or channels. Can be scripted; a trace does not check."""
    if is_tracing():
        return
    check_dimensions(x, spatial_dims)
    if x.shape[1] != in_channels:
        raise ConfigError(
            f"The input has {x.shape[1]} channels, but this network takes {in_channels}. Build it with "
            f"in_channels={x.shape[1]}, or give it what it was trained on (neighbouring slices, one-hot labels, RGB)."
        )


def check_num_values(x: Tensor, norm: str, training: bool) -> None:
    """Refuse features that leave a norm a single value per channel, which torch cannot normalise.

    Args:
        x: smallest features of the network, ``(B, C, *spatial)``.
        norm: of the network.
        training: whether batch norm uses the batch.
    """
    if is_tracing():
        return
    values = x.numel() // max(x.shape[1], 1)
    if norm == "instance":
        values = values // max(x.shape[0], 1)
    if values == 1 and (norm == "instance" or (norm == "batch" and training)):
        raise GeometryError(
            f"The smallest features of this network have the shape {list(x.shape)}: a single value per channel, which "
            f"{norm} norm cannot normalise. Use larger images or patches, or another norm or a larger batch."
        )


def check_stride(condition: Tensor, stride: int) -> None:
    """Refuse a condition ``(B, C, *spatial)`` that the network cannot halve often enough.

    Can be scripted; in TorchScript the same message arrives inside a ``torch.jit.Error``. A trace does not check:
    it would bake in the size of its example.
    """
    if is_tracing():
        return
    size = condition.shape[2:]
    is_wrong = False
    for length in size:
        if length % stride != 0 or length == 0:
            is_wrong = True
    if is_wrong:
        raise GeometryError(
            f"The input has size {list(size)}, but this network halves it down to 1/{stride}: each size must be "
            f"a multiple of {stride}. Pad the input and crop the output; VolumeInferer does both."
        )


def use_channels_last(network: nn.Module, spatial_dims: int) -> None:
    """Keep all convolution weights channels-last, in place; the activations follow.

    The same function up to rounding. It saves the layout changes that convolutions of recent CPUs (oneDNN) and of
    tensor cores need otherwise: discriminators and SPADE networks are up to 1.4 times as fast in fp32 on the
    CPU, ResNets are not faster (benchmarks/NETWORKS.md).
    """
    network.to(memory_format=torch.channels_last if spatial_dims == 2 else torch.channels_last_3d)  # type: ignore[call-overload]


def like_weight(x: Tensor, weight: Tensor) -> Tensor:
    """Lay ``x`` out channels-last where the weight of the convolution that takes it is. Can be scripted.

    What several convolutions take is converted once, instead of by each of them.
    """
    if weight.ndim == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x


def init_weights(module: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Give a network the start values of pix2pix, in place.

    Convolutions and linear layers: weights by ``init_type``, bias 0. Affine norms: weight ``N(1, gain)``, bias 0.
    Running statistics stay as they are.

    Args:
        module: network or part of one.
        init_type: ``"normal"`` (``N(0, gain)``), ``"xavier"``, ``"kaiming"`` (ignores ``gain``) or ``"orthogonal"``.
        gain: standard deviation or gain of the chosen distribution.

    Raises:
        ConfigError: if ``init_type`` is not known.
    """
    if init_type not in INIT_TYPES:
        raise ConfigError(f"init_type={init_type!r} is not known; choose one of {', '.join(INIT_TYPES)}.")
    for layer in module.modules():
        if isinstance(layer, _CONV_TYPES):
            if has_spectral_norm(layer):
                _init_spectral_weight(layer, init_type, gain)
            else:
                _init_conv_weight(layer.weight, init_type, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (_BatchNorm, nn.GroupNorm)) and layer.weight is not None:
            nn.init.normal_(layer.weight, 1.0, gain)
            nn.init.zeros_(layer.bias)


def _init_spectral_weight(layer: nn.Module, init_type: str, gain: float) -> None:
    """The start values go to the weight before normalisation, and its singular vectors are found anew."""
    original = layer.get_parameter("parametrizations.weight.original")
    norm = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(norm, SpectralNorm)
    _init_conv_weight(original, init_type, gain)
    norm.iterate(original, num_iterations=15)


def _init_conv_weight(weight: torch.Tensor, init_type: str, gain: float) -> None:
    if init_type == "normal":
        nn.init.normal_(weight, 0.0, gain)
    elif init_type == "xavier":
        nn.init.xavier_normal_(weight, gain=gain)
    elif init_type == "kaiming":
        nn.init.kaiming_normal_(weight, a=0.0, mode="fan_in")
    else:
        nn.init.orthogonal_(weight, gain=gain)

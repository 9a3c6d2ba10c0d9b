"""The wavelet networks of USIS and of the systems that took them over: both generators and the discriminator."""

import math

import torch

from monai_synth.checkpoints.importers.constants import refuse_other_constant
from monai_synth.checkpoints.importers.family import Family, Hints, Placement, Translation, place_layers
from monai_synth.checkpoints.importers.noise import find_noise, notes_on_average
from monai_synth.checkpoints.weights import StateDict
from monai_synth.errors import CheckpointError
from monai_synth.networks.antialias import blur_kernel
from monai_synth.networks.equalized import BLUR_TAPS
from monai_synth.networks.haar import HaarDown, HaarUp
from monai_synth.networks.wavelet_discriminator import WaveletDiscriminator
from monai_synth.networks.wavelet_generator import ResidualWaveletGenerator, WaveletGenerator

_BANDS = ("ll", "lh", "hl", "hh")
_CONSTANT = "constant kernel of the Haar transform or of a blur, which our network makes itself"
_UNUSED = "present in the file, never used in the forward pass"


def _is_usis_wavelet(state: StateDict) -> bool:
    return {"body.0.norm_0.iwt.ll", "fc.weight"} <= state.keys()


def _is_wavelet_generator(state: StateDict) -> bool:
    return {"conv_img.iwt.ll", "fc.weight"} <= state.keys() and not _is_usis_wavelet(state)


def _translate_generator(state: StateDict, hints: Hints) -> Translation:
    is_residual = _is_usis_wavelet(state)
    num_blocks = sum(key.endswith(".norm_0.mlp_gamma.bias") for key in state)
    layers = {"fc": "stem", "conv_img.conv": "head"}
    for i in range(num_blocks):
        for part in "01s":
            layers[f"body.{i}.conv_{part}"] = f"blocks.{i}.conv_{part}"
            if is_residual and part == "s":
                continue
            norm, ours = f"body.{i}.norm_{part}", f"blocks.{i}.norm_{part}"
            layers |= {
                f"{norm}.first_norm": f"{ours}.norm",
                f"{norm}.mlp_shared.0": f"{ours}.shared",
                f"{norm}.mlp_gamma": f"{ours}.gamma",
                f"{norm}.mlp_beta": f"{ours}.beta",
            }
    placement = place_layers(state, layers)
    _drop_constants(state, placement)
    if is_residual:
        placement.dropped.update({key: _UNUSED for key in state if ".norm_s." in key})
    stem, shared, head = state["fc.weight"], state["body.0.norm_0.mlp_shared.0.weight"], state["conv_img.conv.weight"]
    noise_channels, noise_guess = find_noise(stem.shape[1], 0, hints)
    return Translation(
        network_class=ResidualWaveletGenerator if is_residual else WaveletGenerator,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1] - noise_channels,
            "out_channels": head.shape[0] // len(_BANDS),
            "channels": head.shape[1] // 4,
            "num_blocks": num_blocks,
            "noise_channels": noise_channels,
            "hidden_channels": shared.shape[0],
            "kernel_size": shared.shape[2],
            "norm": "batch" if "body.0.norm_0.first_norm.running_mean" in state else "instance",
            "use_spectral_norm": "body.0.conv_0.weight_orig" in state,
        },
        placement=placement,
        guesses={"noise_channels": noise_guess},
        notes=notes_on_average(state),
    )


def _is_wavelet_discriminator(state: StateDict) -> bool:
    return {"from_rgbs.0.conv.0.weight", "dwt.ll"} <= state.keys()


def _translate_discriminator(state: StateDict, hints: Hints) -> Translation:
    num_blocks = sum(key.endswith(".conv1.0.weight") for key in state)
    layers = {"final_linear.0": "linear", "final_linear.1": "head"}

    def add(conv: str, ours: str, first: int = 0) -> None:
        """The weights of a convolution and the bias of the activation behind it."""
        layers.update({f"{conv}.{first}": ours, f"{conv}.{first + 1}": ours})

    add("from_rgbs.0.conv", "stem")
    add("final_conv", "last_conv")
    for i in range(num_blocks):
        add(f"convs.{i}.conv1", f"blocks.{i}.conv")
        add(f"convs.{i}.conv2", f"blocks.{i}.conv_down", first=1)  # 0 is the blur
        add(f"from_rgbs.{i + 1}.conv", f"from_image.{i}")
    placement = place_layers(state, layers)
    _drop_constants(state, placement)
    stem, linear = state["from_rgbs.0.conv.0.weight"], state["final_linear.0.weight"]
    image_size, size_guess = _find_image_size(num_blocks, linear.shape[1] // linear.shape[0], hints)
    return Translation(
        network_class=WaveletDiscriminator,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1] // len(_BANDS),
            "image_size": image_size,
            "channels": stem.shape[0],
            "max_channels": linear.shape[0],
        },
        placement=placement,
        guesses={"image_size": size_guess},
    )


def _find_image_size(num_blocks: int, num_positions: int, hints: Hints) -> tuple[list[int], str]:
    """The size of the images, of which a file tells only the depth and the number of positions in the last map."""
    if "image_size" in hints:
        return list(hints["image_size"]), ""
    for ratio in (1, 2):
        height = math.isqrt(num_positions // ratio)
        if ratio * height**2 == num_positions:
            scale = 2 ** (num_blocks + 1)
            size = [scale * height, scale * height * ratio]
            return size, (
                "The file does not tell the shape of its images; taken are images "
                f"{'as wide as high' if ratio == 1 else 'twice as wide as high'}."
            )
    raise CheckpointError(
        f"The last map of this discriminator has {num_positions} positions, which is no square and no double square. "
        "Give image_size (command line: --option image_size=[height,width])."
    )


def _drop_constants(state: StateDict, placement: Placement) -> None:
    """Leave out what is no weight, after a look whether it is what our networks compute with."""
    # Upstream filters by convolution, which mirrors the kernel, and puts the image together by the transposed one.
    patches = torch.eye(4).reshape(4, 1, 2, 2)
    down = HaarDown()(patches).reshape(4, 4).t().reshape(4, 2, 2).flip(1, 2)
    up = HaarUp()(torch.eye(4).reshape(4, 4, 1, 1)).reshape(4, 2, 2)
    blur = blur_kernel(BLUR_TAPS, spatial_dims=2)
    for key, found in state.items():
        layer, _, entry = key.rpartition(".")
        if entry in _BANDS:
            ours = (up if layer.endswith("iwt") else down)[_BANDS.index(entry)]
        elif entry == "kernel":
            ours = 4 * blur if layer.endswith("upsample") else blur
        else:
            continue
        refuse_other_constant(key, found, ours, name="the kernel of the Haar transform or of the blur [1, 3, 3, 1]")
        placement.dropped[key] = _CONSTANT


FAMILIES: tuple[Family, ...] = (
    Family("usis_wavelet", "USIS wavelet generator, *_G.pth and *_EMA.pth", _is_usis_wavelet, _translate_generator),
    Family(
        "wavelet_generator",
        "OASIS on Haar coefficients, *_G.pth and *_EMA.pth",
        _is_wavelet_generator,
        _translate_generator,
    ),
    Family(
        "wavelet_discriminator",
        "wavelet discriminator of USIS, *_Du.pth",
        _is_wavelet_discriminator,
        _translate_discriminator,
    ),
)

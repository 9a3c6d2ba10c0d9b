"""pix2pixHD and SPADE: the multi-scale discriminators.

Three ways to name the layers of pix2pixHD's are around, and one for SPADE's. They count the scales in opposite
directions; ours start at full resolution.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, place_layers
from monai_synth.checkpoints.importers.pix2pix import SIGMOID_GUESS
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.multiscale import MultiScaleDiscriminator

_MAX_CHANNELS = 512


@dataclass(frozen=True)
class _Layout:
    """How one code base names the layers.

    Attributes:
        entry: pattern of every entry; its first group is the number of the scale.
        is_full_last: whether the highest number is full resolution.
        name_layer: (number of the scale, of the layer) -> convolution and norm.
    """

    entry: str
    is_full_last: bool
    name_layer: Callable[[int, int], tuple[str, str]]


_WITH_FEATURES = _Layout(
    r"scale(\d+)_layer\d+\.[01]\.\w+", True, lambda s, j: (f"scale{s}_layer{j}.0", f"scale{s}_layer{j}.1")
)
# Convolution, norm and activation of every layer are counted in one row; the first layer has no norm.
_WITHOUT_FEATURES = _Layout(
    r"layer(\d+)\.\d+\.\w+", True, lambda s, j: (f"layer{s}.{max(3 * j - 1, 0)}", f"layer{s}.{3 * j}")
)
_MEDICAL = _Layout(  # pix2pixhd-medical
    r"scale(\d+)\.model\d+\.[01]\.\w+", False, lambda s, j: (f"scale{s}.model{j}.0", f"scale{s}.model{j}.1")
)
# A layer with a norm nests the convolution one deeper.
_SPADE = _Layout(
    r"discriminator_(\d+)\.model\d+\.0(?:\.[01])?\.\w+",
    False,
    lambda s, j: (f"discriminator_{s}.model{j}.0.0", f"discriminator_{s}.model{j}.0.1"),
)


def _is_of(state: StateDict, layout: _Layout) -> bool:
    if not all(re.fullmatch(layout.entry, key) for key in state):
        return False
    weights = [_find_weight(state, _name_conv(state, layout, 0, j)) for j in (0, 1)]
    return all(weight is not None and set(weight.shape[2:]) == {4} for weight in weights)


def _name_conv(state: StateDict, layout: _Layout, scale: int, layer: int) -> str:
    conv, _ = layout.name_layer(scale, layer)
    if layout is _SPADE and _find_weight(state, conv) is None:
        return conv.removesuffix(".0")
    return conv


def _find_weight(state: StateDict, conv: str) -> Tensor | None:
    return state.get(f"{conv}.weight_orig", state.get(f"{conv}.weight"))


def _is_pix2pixhd(state: StateDict) -> bool:
    return any(_is_of(state, layout) for layout in (_WITH_FEATURES, _WITHOUT_FEATURES, _MEDICAL))


def _is_spade(state: StateDict) -> bool:
    return _is_of(state, _SPADE)


def _translate(state: StateDict, hints: Hints) -> Translation:
    layout = next(layout for layout in (_WITH_FEATURES, _WITHOUT_FEATURES, _MEDICAL, _SPADE) if _is_of(state, layout))
    num_scales = len({match[1] for key in state if (match := re.match(layout.entry, key))})
    weights: list[Tensor] = []
    while (weight := _find_weight(state, _name_conv(state, layout, 0, len(weights)))) is not None:
        weights.append(weight)
    head = len(weights) - 1
    layers: dict[str, str] = {}
    for number in range(num_scales):
        scale = f"scales.{num_scales - 1 - number if layout.is_full_last else number}"
        for layer in range(head):
            _, norm = layout.name_layer(number, layer)
            layers[_name_conv(state, layout, number, layer)] = f"{scale}.layers.{layer}.conv"
            if layer > 0:
                layers[norm] = f"{scale}.layers.{layer}.norm"
        layers[_name_conv(state, layout, number, head)] = f"{scale}.head"
    second, (nested, norm) = _name_conv(state, layout, 0, 1), layout.name_layer(0, 1)
    # pix2pixHD has no discriminator without norm. That of SPADE nests the convolution less deep.
    kind = "none" if second != nested else "batch" if f"{norm}.weight" in state else "instance"
    widths = [weight.shape[0] for weight in weights[:head]]
    is_capped = len(widths) > 1 and widths[-1] < widths[0] * 2 ** (head - 1)
    return Translation(
        network_class=MultiScaleDiscriminator,
        arguments={
            "spatial_dims": weights[0].ndim - 2,
            "in_channels": weights[0].shape[1],
            "channels": widths[0],
            "num_layers": head - 1,
            "num_scales": num_scales,
            "norm": kind,
            "conv_bias": f"{second}.bias" in state,
            "use_spectral_norm": f"{second}.weight_orig" in state,
            "max_channels": widths[-1] if is_capped else max(_MAX_CHANNELS, widths[-1]),
            "use_sigmoid": False,
        },
        placement=place_layers(state, layers, has_statistics=kind == "batch"),
        guesses={"use_sigmoid": SIGMOID_GUESS} if layout is _WITHOUT_FEATURES else {},
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        "pix2pixhd_multiscale",
        "pix2pixHD discriminator, *_net_D.pth, and that of pix2pixhd-medical",
        _is_pix2pixhd,
        _translate,
    ),
    Family("spade_multiscale", "SPADE discriminator, *_net_D.pth", _is_spade, _translate),
)

"""The ResNet generators of CycleGAN, pix2pix, CUT and pix2pixHD (its global one).

All count paddings, norms and activations in one row, ``model.{i}``, as our ``layers.{i}`` do; a residual block is
``model.{i}.conv_block.{j}``.
"""

import re

from monai_synth.checkpoints.importers.constants import refuse_other_constant
from monai_synth.checkpoints.importers.family import Family, Hints, Translation, find_norm, place_layers
from monai_synth.checkpoints.importers.pix2pix import BATCH_NORM_NOTE
from monai_synth.checkpoints.weights import StateDict
from monai_synth.errors import CheckpointError
from monai_synth.networks.antialias import BLUR_DOWN_TAPS, BLUR_UP_TAPS, blur_kernel
from monai_synth.networks.resnet import ResNetGenerator

PADDING_GUESS = (
    "A file does not tell whether residual blocks reflect or replicate the border; all published ones reflect."
)
_DROPOUT_GUESS = "The residual blocks have dropout, but a file does not tell how much; the original has 0.5."
_BLUR = "constant blur, which our network makes itself"
# Where the two convolutions of a residual block are -> whether zeros are padded, whether there is dropout.
_BLOCKS: dict[tuple[int, ...], tuple[bool, bool]] = {
    (1, 5): (False, False),
    (1, 6): (False, True),
    (0, 3): (True, False),
    (0, 4): (True, True),
}


def find_convolutions(state: StateDict, source: str) -> list[int]:
    """Places of the convolutions ``{source}.{i}`` outside of residual blocks, sorted."""
    found = (re.fullmatch(rf"{source}\.(\d+)\.weight", key) for key, value in state.items() if value.ndim > 1)
    return sorted(int(match[1]) for match in found if match)


def find_blocks(state: StateDict, source: str) -> dict[int, tuple[int, ...]]:
    """Place of each residual block ``{source}.{i}`` -> places of its convolutions, sorted."""
    blocks: dict[int, list[int]] = {}
    for key, value in state.items():
        match = re.fullmatch(rf"{source}\.(\d+)\.conv_block\.(\d+)\.weight", key)
        if match and value.ndim > 1:
            blocks.setdefault(int(match[1]), []).append(int(match[2]))
    return {place: tuple(sorted(blocks[place])) for place in sorted(blocks)}


def map_layers(state: StateDict, source: str, target: str) -> dict[str, str]:
    """Layer ``{source}.{i}`` of the file -> layer ``{target}.{i}`` of ours, with those inside of residual blocks."""
    layers = {}
    for key in state:
        match = re.fullmatch(rf"({source}\.(\d+))\.\w+", key)
        if match and not key.endswith(".filt"):
            layers[match[1]] = f"{target}.{match[2]}"
    for place, convs in find_blocks(state, source).items():
        for number, inner in enumerate(convs):
            layers[f"{source}.{place}.conv_block.{inner}"] = f"{target}.{place}.conv_{number}"
            layers[f"{source}.{place}.conv_block.{inner + 1}"] = f"{target}.{place}.norm_{number}"
    return layers


def read_blocks(state: StateDict, source: str) -> tuple[str, bool]:
    """Padding of the residual blocks (without any: the published one), and whether they have dropout."""
    kinds = set(find_blocks(state, source).values()) or {(1, 5)}
    if len(kinds) > 1 or not kinds <= _BLOCKS.keys():
        raise ValueError(f"a residual block with convolutions at {sorted(kinds)}")
    has_zeros, has_dropout = _BLOCKS[kinds.pop()]
    return "zero" if has_zeros else "reflect", has_dropout


def refuse_zero_padding(padding: str, hints: Hints) -> None:
    """Stop where a user says ``padding="zero"`` of a file whose layers are counted as with other padding."""
    if padding != "zero" and hints.get("padding") == "zero":
        raise CheckpointError(
            "padding='zero' does not fit this file: with zeros its convolutions would have other numbers. Leave the "
            "option out, or give padding='replicate'."
        )


def _is_resnet(state: StateDict) -> bool:
    stem = state.get("model.1.weight")
    if stem is None or set(stem.shape[2:]) != {7} or not any(".conv_block." in key for key in state):
        return False
    return all(re.fullmatch(r"model\.\d+\.(conv_block\.\d+\.)?\w+", key) for key in state)


def _translate_resnet(state: StateDict, hints: Hints) -> Translation:
    blocks, convs = list(find_blocks(state, "model")), find_convolutions(state, "model")
    num_downs = sum(place < blocks[0] for place in convs) - 1
    if len(convs) != 2 * num_downs + 2:
        raise ValueError(f"as many convolutions behind the residual blocks as in front of them ({num_downs})")
    norm = find_norm(state, conv="model.1", norm="model.2")
    placement = place_layers(state, map_layers(state, "model", "layers"), has_statistics=norm == "batch")
    blurs = [int(key.split(".")[1]) for key in state if key.endswith(".filt")]
    for place in blurs:
        key = f"model.{place}.filt"
        spatial_dims = state[key].ndim - 2
        is_up = place > blocks[0]
        taps = BLUR_UP_TAPS if is_up else BLUR_DOWN_TAPS
        kernel = blur_kernel(taps, spatial_dims=spatial_dims)
        ours = kernel * 2**spatial_dims if is_up else kernel  # doubling spreads each value over 2 x 2
        refuse_other_constant(key, state[key], ours, name=f"the blur {list(map(int, taps))} of CUT")
        placement.dropped[key] = _BLUR
    padding, has_dropout = read_blocks(state, "model")
    stem, head = state["model.1.weight"], state[f"model.{convs[-1]}.weight"]
    refuse_zero_padding(padding, hints)
    return Translation(
        network_class=ResNetGenerator,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1],
            "out_channels": head.shape[0],
            "channels": stem.shape[0],
            "num_downs": num_downs,
            "num_blocks": len(blocks),
            "norm": norm,
            "dropout": 0.5 if has_dropout else 0.0,
            "padding": padding,
            "conv_bias": "model.1.bias" in state,
            "antialias_down": any(place < blocks[0] for place in blurs),
            "antialias_up": any(place > blocks[0] for place in blurs),
        },
        placement=placement,
        guesses=({"padding": PADDING_GUESS} if padding == "reflect" else {})
        | ({"dropout": _DROPOUT_GUESS} if has_dropout else {}),
        notes=(BATCH_NORM_NOTE,) if norm == "batch" and not blurs else (),
    )


FAMILIES: tuple[Family, ...] = (
    Family(
        "resnet",
        "ResNet generator of CycleGAN, pix2pix, CUT and pix2pixHD (global), *_net_G.pth",
        _is_resnet,
        _translate_resnet,
    ),
)

"""pix2pixHD: the generator with local enhancers, and the feature encoder. The global generator is a ``resnet``."""

import re

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, find_norm, place_layers
from monai_synth.checkpoints.importers.resnet import (
    PADDING_GUESS,
    find_blocks,
    find_convolutions,
    map_layers,
    read_blocks,
    refuse_zero_padding,
)
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.pix2pixhd import FeatureEncoder, LocalEnhancer


def _is_local(state: StateDict) -> bool:
    is_named_so = (re.fullmatch(r"model(\d+_[12])?\.\d+\.(conv_block\.\d+\.)?\w+", key) for key in state)
    return "model1_1.1.weight" in state and all(is_named_so)


def _translate_local(state: StateDict, hints: Hints) -> Translation:
    blocks, convs = list(find_blocks(state, "model")), find_convolutions(state, "model")
    # The trunk has no head: stem, then as many convolutions in front of the blocks as behind them.
    num_downs, rest = divmod(len(convs) - 1, 2)
    if rest or (blocks and num_downs != sum(place < blocks[0] for place in convs) - 1):
        raise ValueError("as many convolutions behind the residual blocks as in front of them")
    num_enhancers = len({key for key in state if re.fullmatch(r"model\d+_1\.1\.weight", key)})
    layers = map_layers(state, "model", "trunk.layers")
    for n in range(num_enhancers):
        layers |= map_layers(state, f"model{n + 1}_1", f"enhancers.{n}.down.layers")
        layers |= map_layers(state, f"model{n + 1}_2", f"enhancers.{n}.up.layers")
    norm = find_norm(state, conv="model.1", norm="model.2")
    padding, _ = read_blocks(state, "model")
    refuse_zero_padding(padding, hints)
    stem = state[f"model{num_enhancers}_1.1.weight"]
    last = f"model{num_enhancers}_2"
    head = state[f"{last}.{find_convolutions(state, last)[-1]}.weight"]
    return Translation(
        network_class=LocalEnhancer,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1],
            "out_channels": head.shape[0],
            "channels": stem.shape[0],
            "num_downs": num_downs,
            "num_blocks": len(blocks),
            "num_enhancers": num_enhancers,
            "num_local_blocks": len(find_blocks(state, last)),
            "norm": norm,
            "padding": padding,
        },
        placement=place_layers(state, layers, has_statistics=norm == "batch"),
        guesses={"padding": PADDING_GUESS} if padding == "reflect" else {},
    )


def _is_encoder(state: StateDict) -> bool:
    stem = state.get("model.1.weight")
    if stem is None or set(stem.shape[2:]) != {7} or "model.0.weight" in state:
        return False
    return all(re.fullmatch(r"model\.\d+\.\w+", key) for key in state)


def _translate_encoder(state: StateDict, hints: Hints) -> Translation:
    convs = find_convolutions(state, "model")
    num_downs, rest = divmod(len(convs) - 2, 2)
    if rest:
        raise ValueError(f"a convolution besides the {len(convs)} of the encoder")
    norm = find_norm(state, conv="model.1", norm="model.2")
    stem, head = state["model.1.weight"], state[f"model.{convs[-1]}.weight"]
    return Translation(
        network_class=FeatureEncoder,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1],
            "out_channels": head.shape[0],
            "channels": stem.shape[0],
            "num_downs": num_downs,
            "norm": norm,
        },
        placement=place_layers(state, map_layers(state, "model", "layers"), has_statistics=norm == "batch"),
    )


FAMILIES: tuple[Family, ...] = (
    Family("pix2pixhd_local", "pix2pixHD --netG local, *_net_G.pth", _is_local, _translate_local),
    Family("pix2pixhd_encoder", "pix2pixHD feature encoder, *_net_E.pth", _is_encoder, _translate_encoder),
)

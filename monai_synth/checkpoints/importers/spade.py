"""SPADE: the generator, with and without VAE, and the style encoder."""

import re
from typing import Any

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, place_layers
from monai_synth.checkpoints.weights import StateDict
from monai_synth.errors import CheckpointError
from monai_synth.networks.spade import SPADEGenerator
from monai_synth.networks.style_encoder import StyleEncoder

_BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3", "up_4")
_LAYERS = {
    "conv_{n}": "conv_{n}",
    "norm_{n}.param_free_norm": "norm_{n}.norm",
    "norm_{n}.mlp_shared.0": "norm_{n}.shared",
    "norm_{n}.mlp_gamma": "norm_{n}.gamma",
    "norm_{n}.mlp_beta": "norm_{n}.beta",
}
_STEM_MULTIPLE = 16


def _is_generator(state: StateDict) -> bool:
    return {"fc.weight", "head_0.conv_0.bias", "up_3.conv_0.bias", "conv_img.weight"} <= state.keys()


def _is_encoder(state: StateDict) -> bool:
    return {"fc_mu.weight", "fc_var.weight"} <= state.keys() and bool(
        {"layer1.0.weight_orig", "layer1.0.weight"} & state.keys()
    )


def _translate_generator(state: StateDict, hints: Hints) -> Translation:
    layers = {"fc": "stem", "conv_img": "head"}
    for i, block in enumerate(_BLOCKS):
        for theirs, ours in _LAYERS.items():
            for n in "01s":  # the two of the main path, the shortcut
                layers[f"{block}.{theirs.format(n=n)}"] = f"blocks.{i}.{ours.format(n=n)}"
    shared, width = state["head_0.norm_0.mlp_shared.0.weight"], state["head_0.conv_0.bias"].shape[0]
    arguments: dict[str, Any] = {
        "spatial_dims": shared.ndim - 2,
        "in_channels": shared.shape[1],
        "out_channels": state["conv_img.weight"].shape[0],
        "channels": width // _STEM_MULTIPLE,
        "upsampling": "most" if "up_4.conv_0.bias" in state else "normal",
        "hidden_channels": shared.shape[0],
        "kernel_size": shared.shape[-1],
        "norm": "batch" if "head_0.norm_0.param_free_norm.running_mean" in state else "instance",
        "use_spectral_norm": "head_0.conv_0.weight_orig" in state,
    }
    guesses = {}
    if arguments["upsampling"] == "normal":
        guesses["upsampling"] = (
            "Files of --num_upsampling_layers normal and more have the same entries; normal is for images of 256 "
            "pixels, more for 512, such as the published Cityscapes."
        )
    fc = state["fc.weight"]
    if fc.ndim == 2:  # the VAE
        num_cells = fc.shape[0] // width
        arguments["noise_channels"] = fc.shape[1]
        arguments["latent_size"] = hints.get("latent_size") or _find_square(num_cells, shared.ndim - 2, "latent_size")
        guesses["latent_size"] = f"The VAE starts from {num_cells} values per channel; square images are assumed."
    return Translation(SPADEGenerator, arguments, place_layers(state, layers), guesses)


def _translate_encoder(state: StateDict, hints: Hints) -> Translation:
    num_layers = sum(re.fullmatch(r"layer\d+\.0\.weight(_orig)?", key) is not None for key in state)
    layers = {"fc_mu": "mu", "fc_var": "logvar"}
    for i in range(num_layers):
        layers |= {f"layer{i + 1}.0": f"layers.{i}.conv", f"layer{i + 1}.1": f"layers.{i}.norm"}
    has_spectral_norm = "layer1.0.weight_orig" in state
    weight = "weight_orig" if has_spectral_norm else "weight"
    first, last, mu = state[f"layer1.0.{weight}"], state[f"layer{num_layers}.0.{weight}"], state["fc_mu.weight"]
    spatial_dims = first.ndim - 2
    has_batch_norm = "layer1.1.weight" in state
    arguments: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": first.shape[1],
        "noise_channels": mu.shape[0],
        "channels": first.shape[0],
        "num_layers": num_layers,
        "norm": "batch" if has_batch_norm else "none" if "layer1.0.bias" in state else "instance",
        "use_spectral_norm": has_spectral_norm,
    }
    num_cells = mu.shape[1] // last.shape[0]
    arguments["image_size"] = hints.get("image_size") or [
        length * 2**num_layers for length in _find_square(num_cells, spatial_dims, "image_size")
    ]
    guesses = {"image_size": f"The last map has {num_cells} values per channel; square images are assumed."}
    return Translation(StyleEncoder, arguments, place_layers(state, layers, has_statistics=has_batch_norm), guesses)


def _find_square(num_cells: int, spatial_dims: int, hint: str) -> list[int]:
    """The square or cubic grid of so many cells."""
    side = round(num_cells ** (1 / spatial_dims))
    if side**spatial_dims != num_cells:
        raise CheckpointError(
            f"The file has a grid of {num_cells} values per channel, which is no square: give {hint} "
            f"(command line: --option {hint}=[height,width])."
        )
    return [side] * spatial_dims


FAMILIES: tuple[Family, ...] = (
    Family("spade", "SPADE generator, *_net_G.pth", _is_generator, _translate_generator),
    Family("spade_encoder", "SPADE style encoder, *_net_E.pth", _is_encoder, _translate_encoder),
)

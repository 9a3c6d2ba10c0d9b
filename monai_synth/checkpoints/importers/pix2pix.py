"""pix2pix and CycleGAN: the U-Net generator, the patch and the pixel discriminator."""

import re

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, find_norm, place_layers
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.unet import UNetGenerator

BATCH_NORM_NOTE = (
    "Results of pix2pix were published in train mode: statistics of the single image, and live dropout where there is "
    "some. The network is handed over in eval mode, as test.py --eval; network.train(), one image at a time, computes "
    "as test.py does by default."
)
SIGMOID_GUESS = "A sigmoid at the end leaves no trace in a file; the losses here take logits."


def _is_pix2pix_unet(state: StateDict) -> bool:
    return {"model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.weight"} <= state.keys()


def _translate_pix2pix_unet(state: StateDict, hints: Hints) -> Translation:
    # Each level is nested in the one outside it: convolution 1, norm 2, the level inside 3, convolution back 5,
    # norm 6; the innermost has nothing inside and no norm on the way down: convolution 1, back 3, norm 4.
    levels = ["model.model.1.model"]
    while f"{levels[-1]}.5.weight" in state:
        levels.append(f"{levels[-1]}.3.model")
    num_downs = len(levels) + 1
    layers = {"model.model.0": "downs.0.conv", "model.model.3": f"ups.{num_downs - 1}.conv"}
    for level, prefix in enumerate(levels, start=1):
        up = num_downs - 1 - level
        is_innermost = up == 0
        names = (
            {"1": f"downs.{level}.conv", "3": "ups.0.conv", "4": "ups.0.norm"}
            if is_innermost
            else {"1": f"downs.{level}.conv", "2": f"downs.{level}.norm", "5": f"ups.{up}.conv", "6": f"ups.{up}.norm"}
        )
        layers |= {f"{prefix}.{index}": name for index, name in names.items()}
    norm = find_norm(state, conv=f"{levels[-1]}.3", norm=f"{levels[-1]}.4")
    placement = place_layers(state, layers, has_statistics=norm == "batch")
    first, last = state["model.model.0.weight"], state["model.model.3.weight"]
    return Translation(
        network_class=UNetGenerator,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "out_channels": last.shape[1],
            "channels": first.shape[0],
            "num_downs": num_downs,
            "norm": norm,
            "dropout": 0.0,
        },
        placement=placement,
        guesses={"dropout": "Dropout leaves no trace in a file; pix2pix trains with 0.5 by default."},
        notes=(BATCH_NORM_NOTE,) if norm == "batch" else (),
    )


def _is_patchgan(state: StateDict) -> bool:
    if not all(re.fullmatch(r"model\.\d+\.\w+", key) for key in state):
        return False
    first, second = state.get("model.0.weight"), state.get("model.2.weight")
    return all(weight is not None and set(weight.shape[2:]) == {4} for weight in (first, second))


def _is_pixel_discriminator(state: StateDict) -> bool:
    if not all(re.fullmatch(r"net\.\d+\.\w+", key) for key in state):
        return False
    weights = [state.get(f"net.{index}.weight") for index in (0, 2, 5)]
    return all(weight is not None and set(weight.shape[2:]) == {1} for weight in weights)


def _translate_patchgan(state: StateDict, hints: Hints) -> Translation:
    is_pixel = "net.0.weight" in state
    root = "net" if is_pixel else "model"
    num_convs = sum(value.ndim > 1 for value in state.values())
    inner = num_convs - 2  # layers with a norm: all but the first and the head
    layers = {f"{root}.0": "layers.0.conv", f"{root}.{3 * inner + 2}": "head"}
    for i in range(1, inner + 1):
        layers |= {f"{root}.{3 * i - 1}": f"layers.{i}.conv", f"{root}.{3 * i}": f"layers.{i}.norm"}
    norm = find_norm(state, conv=f"{root}.2", norm=f"{root}.3")
    placement = place_layers(state, layers, has_statistics=norm == "batch")
    first = state[f"{root}.0.weight"]
    return Translation(
        network_class=PatchDiscriminator,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "channels": first.shape[0],
            "num_layers": 0 if is_pixel else inner,
            "norm": norm,
            "use_sigmoid": False,
        },
        placement=placement,
        guesses={"use_sigmoid": SIGMOID_GUESS},
    )


FAMILIES: tuple[Family, ...] = (
    Family("pix2pix_unet", "pix2pix and CycleGAN U-Net, *_net_G.pth", _is_pix2pix_unet, _translate_pix2pix_unet),
    Family("patchgan", "pix2pix and CycleGAN discriminator, *_net_D.pth", _is_patchgan, _translate_patchgan),
    Family("pixel_discriminator", "pix2pix --netD pixel, *_net_D.pth", _is_pixel_discriminator, _translate_patchgan),
)

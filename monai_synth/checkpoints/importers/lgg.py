"""The segmentation U-Net of Buda et al. 2019 (brain-segmentation-pytorch)."""

import re

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, place_layers
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.lgg_unet import LGGUNet


def _is_lgg_unet(state: StateDict) -> bool:
    return "encoder1.enc1conv1.weight" in state


def _translate_lgg_unet(state: StateDict, hints: Hints) -> Translation:
    num_downs = sum(re.fullmatch(r"encoder(\d+)\.enc\1conv1\.weight", key) is not None for key in state)
    blocks = {"bottleneck.bottleneck": "bottleneck"}
    layers = {"conv": "head"}
    for level in range(1, num_downs + 1):
        up = f"ups.{num_downs - level}"
        blocks |= {f"encoder{level}.enc{level}": f"downs.{level - 1}", f"decoder{level}.dec{level}": f"{up}.block"}
        layers[f"upconv{level}"] = f"{up}.up"
    layers |= {
        f"{theirs}{layer}": f"{ours}.{layer}"
        for theirs, ours in blocks.items()
        for layer in ("conv1", "norm1", "conv2", "norm2")
    }
    first, last = state["encoder1.enc1conv1.weight"], state["conv.weight"]
    return Translation(
        network_class=LGGUNet,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "out_channels": last.shape[0],
            "channels": first.shape[0],
            "num_downs": num_downs,
            "use_sigmoid": True,
        },
        placement=place_layers(state, layers),
        guesses={"use_sigmoid": "The published network returns probabilities; without the sigmoid it returns logits."},
        notes=(
            "Its input, for each volume: values below a tenth of the largest set to 0, cropped to what is not 0, "
            "padded to a square and resized to 256 x 256, rescaled between the percentiles 10 and 99 of the volume, "
            "then each channel to mean 0 and standard deviation 1.",
        ),
    )


FAMILIES: tuple[Family, ...] = (
    Family("lgg_unet", "LGG segmentation U-Net, unet.pt", _is_lgg_unet, _translate_lgg_unet),
)

"""Generators and discriminators: tensors in, tensors out."""

from monai_synth.networks import blocks, patch, registry, unet
from monai_synth.networks.blocks import init_weights
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.registry import build, list_discriminators, list_generators, list_networks
from monai_synth.networks.spectral_norm import fold_spectral_norm
from monai_synth.networks.unet import UNetGenerator

__all__ = [
    "PatchDiscriminator",
    "UNetGenerator",
    "blocks",
    "build",
    "fold_spectral_norm",
    "init_weights",
    "list_discriminators",
    "list_generators",
    "list_networks",
    "patch",
    "registry",
    "unet",
]

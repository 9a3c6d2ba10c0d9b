"""Generators and discriminators: tensors in, tensors out."""

from monai_synth.networks import blocks, patch, registry, unet
from monai_synth.networks.blocks import init_weights
from monai_synth.networks.lgg_unet import LGGUNet
from monai_synth.networks.multiscale import MultiScaleDiscriminator
from monai_synth.networks.oasis import OASISGenerator
from monai_synth.networks.oasis_discriminator import OASISDiscriminator
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.patch_sampler import PatchSampler
from monai_synth.networks.pix2pixhd import FeatureEncoder, LocalEnhancer
from monai_synth.networks.registry import build, list_discriminators, list_generators, list_networks
from monai_synth.networks.resnet import ResNetGenerator
from monai_synth.networks.spade import SPADEGenerator
from monai_synth.networks.spectral_norm import fold_spectral_norm
from monai_synth.networks.style_encoder import StyleEncoder
from monai_synth.networks.unet import UNetGenerator
from monai_synth.networks.wavelet_decoder import WaveletDecoder
from monai_synth.networks.wavelet_discriminator import WaveletDiscriminator
from monai_synth.networks.wavelet_generator import ResidualWaveletGenerator, WaveletGenerator

__all__ = [
    "FeatureEncoder",
    "LGGUNet",
    "LocalEnhancer",
    "MultiScaleDiscriminator",
    "OASISDiscriminator",
    "OASISGenerator",
    "PatchDiscriminator",
    "PatchSampler",
    "ResNetGenerator",
    "ResidualWaveletGenerator",
    "SPADEGenerator",
    "StyleEncoder",
    "UNetGenerator",
    "WaveletDecoder",
    "WaveletDiscriminator",
    "WaveletGenerator",
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

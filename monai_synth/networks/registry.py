"""Names of all networks, with the settings of their publications.

A new network adds one entry here and inherits the battery of tests/networks/test_registry.py.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.networks.lgg_unet import LGGUNet
from monai_synth.networks.multiscale import MultiScaleDiscriminator
from monai_synth.networks.oasis import OASISGenerator
from monai_synth.networks.oasis_discriminator import OASISDiscriminator
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.patch_sampler import PatchSampler
from monai_synth.networks.pix2pixhd import FeatureEncoder, LocalEnhancer
from monai_synth.networks.resnet import ResNetGenerator
from monai_synth.networks.spade import SPADEGenerator
from monai_synth.networks.style_encoder import StyleEncoder
from monai_synth.networks.unet import UNetGenerator
from monai_synth.networks.wavelet_discriminator import WaveletDiscriminator
from monai_synth.networks.wavelet_generator import ResidualWaveletGenerator, WaveletGenerator


@dataclass(frozen=True)
class NetworkEntry:
    """One network of the registry.

    Attributes:
        kind: ``"generator"``, ``"discriminator"``, ``"encoder"`` or ``"segmenter"``.
        network: its class.
        summary: what it is, in a few words.
        paper: where it was published.
        published: arguments of the publication; not to be changed.
        example: channels of a published file, for counting parameters.
    """

    kind: str
    network: type[nn.Module]
    summary: str
    paper: str
    published: Mapping[str, Any] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("published", "example"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))


_RGB = {"in_channels": 3, "out_channels": 3}

_ENTRIES = {
    "pix2pix_unet": NetworkEntry(
        "generator",
        UNetGenerator,
        "U-Net with a skip at every level; dropout is its noise",
        "Isola et al. 2017",
        {"channels": 64, "num_downs": 8, "norm": "batch", "dropout": 0.5},
        _RGB,
    ),
    "resnet": NetworkEntry(
        "generator",
        ResNetGenerator,
        "ResNet of CycleGAN: halves twice, nine residual blocks, doubles twice",
        "Zhu et al. 2017",
        {"channels": 64, "num_downs": 2, "num_blocks": 9, "norm": "instance", "dropout": 0.0},
        _RGB,
    ),
    "cut_resnet": NetworkEntry(
        "generator",
        ResNetGenerator,
        "ResNet of CUT: as CycleGAN's, with blurs against aliasing where it halves and doubles",
        "Park et al. 2020",
        {
            "channels": 64,
            "num_downs": 2,
            "num_blocks": 9,
            "norm": "instance",
            "antialias_down": True,
            "antialias_up": True,
            "init_type": "xavier",
        },
        _RGB,
    ),
    "pix2pixhd_global": NetworkEntry(
        "generator",
        ResNetGenerator,
        "ResNet of pix2pixHD: halves four times, up to 1024 channels",
        "Wang et al. 2018",
        {"channels": 64, "num_downs": 4, "num_blocks": 9, "norm": "instance", "conv_bias": True},
        {"in_channels": 36, "out_channels": 3},
    ),
    "pix2pixhd_local": NetworkEntry(
        "generator",
        LocalEnhancer,
        "pix2pixHD's local enhancer: the global ResNet at half size, refined at full size",
        "Wang et al. 2018",
        {
            "channels": 32,
            "num_downs": 4,
            "num_blocks": 9,
            "num_enhancers": 1,
            "num_local_blocks": 3,
            "norm": "instance",
        },
        {"in_channels": 36, "out_channels": 3},
    ),
    "spade": NetworkEntry(
        "generator",
        SPADEGenerator,
        "grows an image from the label map, which scales and shifts the features at every size",
        "Park et al. 2019",
        {
            "channels": 64,
            "upsampling": "normal",
            "hidden_channels": 128,
            "kernel_size": 3,
            "norm": "batch",
            "use_spectral_norm": True,
        },
        {"in_channels": 151, "out_channels": 3},
    ),
    "spade_vae": NetworkEntry(
        "generator",
        SPADEGenerator,
        "SPADE that starts from a style vector (of spade_encoder, or drawn)",
        "Park et al. 2019",
        {"channels": 64, "noise_channels": 256, "hidden_channels": 128, "norm": "batch", "use_spectral_norm": True},
        {"in_channels": 36, "out_channels": 3},
    ),
    "oasis": NetworkEntry(
        "generator",
        OASISGenerator,
        "SPADE without a perceptual loss: noise at every pixel beside the labels",
        "Schönfeld et al. 2021",
        {"channels": 64, "noise_channels": 64, "norm": "batch", "use_spectral_norm": True},
        {"in_channels": 35, "out_channels": 3},
    ),
    "usis_wavelet": NetworkEntry(
        "generator",
        ResidualWaveletGenerator,
        "SPADE on Haar coefficients with residual images, for unpaired training",
        "Eskandar et al. 2023",
        {"channels": 16, "num_blocks": 6, "noise_channels": 64, "norm": "batch", "use_spectral_norm": True},
        {"in_channels": 35, "out_channels": 3},
    ),
    "wavelet_generator": NetworkEntry(
        "generator",
        WaveletGenerator,
        "blocks of OASIS on Haar coefficients (Medical-Images-Synthesis, netG 1)",
        "Gal et al. 2021; Schönfeld et al. 2021",
        {"channels": 16, "num_blocks": 6, "noise_channels": 64, "norm": "batch", "use_spectral_norm": True},
        {"in_channels": 38, "out_channels": 3},
    ),
    "patchgan": NetworkEntry(
        "discriminator",
        PatchDiscriminator,
        "judges patches of 70 pixels; num_layers=0 judges single pixels",
        "Isola et al. 2017",
        {"channels": 64, "num_layers": 3, "norm": "batch"},
        {"in_channels": 6},
    ),
    "cut_patchgan": NetworkEntry(
        "discriminator",
        PatchDiscriminator,
        "judges patches of 84 pixels; blurs against aliasing where it halves",
        "Park et al. 2020",
        {"channels": 64, "num_layers": 3, "norm": "instance", "antialias": True, "init_type": "xavier"},
        {"in_channels": 3},
    ),
    "pix2pixhd_multiscale": NetworkEntry(
        "discriminator",
        MultiScaleDiscriminator,
        "patch discriminators at full and half size, all features handed out",
        "Wang et al. 2018",
        {"channels": 64, "num_layers": 3, "num_scales": 2, "norm": "instance", "conv_bias": True},
        {"in_channels": 39},
    ),
    "spade_multiscale": NetworkEntry(
        "discriminator",
        MultiScaleDiscriminator,
        "as pix2pixHD's, with spectral norm",
        "Park et al. 2019",
        {
            "channels": 64,
            "num_layers": 3,
            "num_scales": 2,
            "norm": "instance",
            "conv_bias": False,
            "use_spectral_norm": True,
            "init_type": "xavier",
        },
        {"in_channels": 39},
    ),
    "oasis_discriminator": NetworkEntry(
        "discriminator",
        OASISDiscriminator,
        "U-Net that sorts every pixel into the label classes or fake",
        "Schönfeld et al. 2021",
        {"channels": 128, "use_spectral_norm": True},
        {"in_channels": 3, "num_classes": 35},
    ),
    "wavelet_discriminator": NetworkEntry(
        "discriminator",
        WaveletDiscriminator,
        "judges whole images of one size by their Haar coefficients at every scale",
        "Gal et al. 2021",
        {"image_size": (256, 256), "channels": 128, "max_channels": 512},
        {"in_channels": 3},
    ),
    "pix2pixhd_encoder": NetworkEntry(
        "encoder",
        FeatureEncoder,
        "what each object of an image looks like, in a few channels",
        "Wang et al. 2018",
        {"channels": 16, "num_downs": 4, "norm": "instance"},
        {"in_channels": 3, "out_channels": 3},
    ),
    "spade_encoder": NetworkEntry(
        "encoder",
        StyleEncoder,
        "mean and variance of an image's style vector, for spade_vae",
        "Park et al. 2019",
        {"channels": 64, "noise_channels": 256, "num_layers": 6, "norm": "instance", "use_spectral_norm": True},
        {"in_channels": 3},
    ),
    "cut_patch_sampler": NetworkEntry(
        "encoder",
        PatchSampler,
        "features of a generator at random places, projected for a contrastive loss",
        "Park et al. 2020",
        {"out_channels": 256, "init_type": "xavier"},
        {"in_channels": [3, 128, 256, 256, 256]},
    ),
    "lgg_unet": NetworkEntry(
        "segmenter",
        LGGUNet,
        "U-Net that segments brain tumours in FLAIR",
        "Buda et al. 2019",
        {"channels": 32, "num_downs": 4, "norm": "batch"},
        {"in_channels": 3, "out_channels": 1},
    ),
}


def list_networks() -> list[str]:
    """All names that :func:`build` takes, sorted."""
    return sorted(_ENTRIES)


def list_generators() -> list[str]:
    """Names that :func:`build` takes for generators, sorted."""
    return [name for name in list_networks() if _ENTRIES[name].kind == "generator"]


def list_discriminators() -> list[str]:
    """Names that :func:`build` takes for discriminators, sorted."""
    return [name for name in list_networks() if _ENTRIES[name].kind == "discriminator"]


def list_encoders() -> list[str]:
    """Names that :func:`build` takes for encoders and samplers of features, sorted."""
    return [name for name in list_networks() if _ENTRIES[name].kind == "encoder"]


def list_segmenters() -> list[str]:
    """Names that :func:`build` takes for segmentation networks, sorted."""
    return [name for name in list_networks() if _ENTRIES[name].kind == "segmenter"]


def describe(name: str) -> NetworkEntry:
    """What the registry knows of a network.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _ENTRIES:
        raise ConfigError(f"There is no network {name!r}; choose one of {', '.join(list_networks())}.")
    return _ENTRIES[name]


def count_parameters(name: str) -> int:
    """Number of parameters at published settings, without allocating them."""
    entry = describe(name)
    with torch.device("meta"):
        network = build(name, **entry.example)
    return sum(p.numel() for p in network.parameters())


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network by name.

    Args:
        name: one of :func:`list_networks`.
        **arguments: arguments of the class; they win over the published settings.

    Raises:
        ConfigError: for an unknown name or argument, or a missing one.
    """
    entry = describe(name)
    settings = {**entry.published, **arguments}
    try:
        inspect.signature(entry.network).bind(**settings)
    except TypeError as error:
        options = ", ".join(inspect.signature(entry.network).parameters)
        raise ConfigError(f"Network {name!r} cannot be built: {error}. Its arguments are: {options}.") from error
    try:
        return entry.network(**settings)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ConfigError(
            f"Network {name!r} cannot be built with {given or 'its published settings'}: {error}. Check kind and range "
            f"of these values; `monai-synth networks {name}` describes them."
        ) from error

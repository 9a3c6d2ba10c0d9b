"""Names of all networks, with the settings of their publications.

A new network adds one entry here and inherits the battery of tests/networks/test_registry.py.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.unet import UNetGenerator


@dataclass(frozen=True)
class NetworkEntry:
    """One network of the registry.

    Attributes:
        kind: ``"generator"``, ``"discriminator"``, ``"encoder"`` or ``"segmenter"``.
        network: its class.
        summary: what it is, in a few words.
        paper: where it was published.
        published: arguments of the publication.
        example: channels of a published file, for counting parameters.
    """

    kind: str
    network: type[nn.Module]
    summary: str
    paper: str
    published: dict[str, Any] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=dict)


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
    "patchgan": NetworkEntry(
        "discriminator",
        PatchDiscriminator,
        "judges patches of 70 pixels",
        "Isola et al. 2017",
        {"channels": 64, "num_layers": 3, "norm": "batch"},
        {"in_channels": 6},
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
    return entry.network(**settings)

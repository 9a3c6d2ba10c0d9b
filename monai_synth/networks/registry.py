"""Names of all generators and discriminators, with the settings of their publications.

A new network adds one line here and inherits the battery of tests/networks/test_registry.py.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from monai_synth.errors import ConfigError
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.unet import UNetGenerator


@dataclass(frozen=True)
class _Entry:
    network: type[nn.Module]
    published: dict[str, Any] = field(default_factory=dict)


_GENERATORS = {
    "pix2pix_unet": _Entry(UNetGenerator, {"channels": 64, "num_downs": 8, "norm": "batch", "dropout": 0.5}),
}
_DISCRIMINATORS = {
    "patchgan": _Entry(PatchDiscriminator, {"channels": 64, "num_layers": 3, "norm": "batch"}),
}


def list_generators() -> list[str]:
    """Names that :func:`build` takes for generators, sorted."""
    return sorted(_GENERATORS)


def list_discriminators() -> list[str]:
    """Names that :func:`build` takes for discriminators, sorted."""
    return sorted(_DISCRIMINATORS)


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network by name.

    Args:
        name: one of :func:`list_generators` or :func:`list_discriminators`.
        **arguments: arguments of the class; they win over the published settings.

    Raises:
        ConfigError: for an unknown name or argument, or a missing one.
    """
    entries = {**_GENERATORS, **_DISCRIMINATORS}
    if name not in entries:
        raise ConfigError(f"There is no network {name!r}; choose one of {', '.join(sorted(entries))}.")
    entry = entries[name]
    settings = {**entry.published, **arguments}
    try:
        inspect.signature(entry.network).bind(**settings)
    except TypeError as error:
        options = ", ".join(inspect.signature(entry.network).parameters)
        raise ConfigError(f"Network {name!r} cannot be built: {error}. Its arguments are: {options}.") from error
    return entry.network(**settings)

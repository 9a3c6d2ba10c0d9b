"""Conditional medical image synthesis on MONAI: a label map or another modality in, an image in physical units out."""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_SUBPACKAGES = frozenset(
    {
        "checkpoints",
        "data",
        "engines",
        "errors",
        "handlers",
        "inferers",
        "losses",
        "metrics",
        "networks",
        "objectives",
        "reports",
        "statistics",
        "transforms",
    }
)


def __getattr__(name: str) -> ModuleType:
    """Import a sub-package when it is first named: ``$import monai_synth`` in a bundle reaches all of them."""
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_SUBPACKAGES | {"__version__"})

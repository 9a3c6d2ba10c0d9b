"""Read the weight files that published methods have left behind.

Each family is one entry of ``FAMILIES``: how to recognise its files by their keys, and how to translate them. Depth,
width, norm and channels follow from keys and shapes; nothing has to be known about a file beforehand.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from monai_synth.checkpoints.weights import StateDict, load_state, read_state_dict
from monai_synth.errors import CheckpointError
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.unet import UNetGenerator

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_UNUSED_STATISTICS = (
    "running statistics of an instance norm without parameters, written by torch 0.3 and 0.4; never used at inference"
)
_BATCH_NORM_NOTE = (
    "The published results of this family were made in train mode (batch statistics, live dropout); "
    "the network is handed over in eval mode, as test.py --eval."
)


@dataclass(frozen=True)
class ImportReport:
    """What became of a file's entries.

    Attributes:
        file: where they came from.
        used: entry of the file -> entry of our network.
        dropped: entry of the file -> why it is not needed.
        filled: entries of our network that the file does not have and that keep their start value.
        notes: what a user should know of this file.
    """

    file: str
    used: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.file}: {len(self.used)} entries used, {len(self.dropped)} dropped, {len(self.filled)} filled"]
        lines += [f"  dropped {key}: {reason}" for key, reason in self.dropped.items()]
        lines += [f"  filled {key}" for key in self.filled]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A published network, ready to use.

    Attributes:
        family: name of the entry of ``FAMILIES`` that recognised the file.
        network: our network with the file's weights, in eval mode on the CPU.
        network_def: the same as a bundle's config takes it (``_target_`` and arguments).
        report: what became of the file's entries.
    """

    family: str
    network: nn.Module
    network_def: dict[str, Any]
    report: ImportReport


@dataclass(frozen=True)
class Translation:
    """What a family makes of a state dict: a class, its arguments, and where each entry goes."""

    network_class: type[nn.Module]
    arguments: dict[str, Any]
    keys: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One kind of published file.

    Attributes:
        name: short name, as in the registry where there is one.
        files: what such files are called where they are published.
        recognise: whether a state dict is of this family.
        translate: how to read it.
    """

    name: str
    files: str
    recognise: Callable[[StateDict], bool]
    translate: Callable[[StateDict], Translation]


def import_checkpoint(file: str | Path) -> ImportedCheckpoint:
    """Recognise a published weight file and load it into our network.

    Args:
        file: ``.pth`` or ``.pt``, zip or older format.

    Raises:
        CheckpointError: if the file cannot be read, is of no known family, or differs from its family.
    """
    state = read_state_dict(file)
    family = next((family for family in FAMILIES if family.recognise(state)), None)
    if family is None:
        known = "; ".join(f"{family.name} ({family.files})" for family in FAMILIES)
        raise CheckpointError(
            f"{file} is of no known family: its {len(state)} entries start with {', '.join(list(state)[:3])}. "
            f"Families that can be imported: {known}."
        )
    translation = family.translate(state)
    unknown = [key for key in state if key not in translation.keys and key not in translation.dropped]
    if unknown:
        raise CheckpointError(
            f"{file} looks like {family.name}, but {len(unknown)} of its entries have no place there "
            f"(first: {unknown[0]}). It comes from a modified network and cannot be imported."
        )
    network = translation.network_class(**translation.arguments)
    ours = {translation.keys[key]: value for key, value in state.items() if key in translation.keys}
    start = network.state_dict()
    # Before torch 0.4.1 batch norm did not count its batches; the count is not used at inference.
    filled = tuple(key for key in start if key not in ours and key.endswith("num_batches_tracked"))
    load_state(network, {**ours, **{key: start[key] for key in filled}}, source=f"{file} (read as {family.name})")
    return ImportedCheckpoint(
        family=family.name,
        network=network.eval(),
        network_def={
            "_target_": f"{translation.network_class.__module__}.{translation.network_class.__qualname__}",
            **translation.arguments,
        },
        report=ImportReport(
            file=str(file),
            used={key: ours_key for key, ours_key in translation.keys.items() if key in state},
            dropped=translation.dropped,
            filled=filled,
            notes=translation.notes,
        ),
    )


def _layer_keys(state: StateDict, layers: dict[str, str]) -> dict[str, str]:
    """Translate every entry whose layer has a new name."""
    keys = {}
    for key in state:
        layer, _, entry = key.rpartition(".")
        if layer in layers:
            keys[key] = f"{layers[layer]}.{entry}"
    return keys


def _find_norm(state: StateDict, *, conv: str, norm: str) -> str:
    """Which norm follows a convolution: batch norm has weights, instance norm has none but the convolution a bias."""
    if f"{norm}.weight" in state:
        return "batch"
    return "instance" if f"{conv}.bias" in state else "none"


def _split_statistics(state: StateDict, layers: dict[str, str], norm: str) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of a pix2pix file, and the entries to drop: statistics that an instance norm does not have."""
    keys = _layer_keys(state, layers)
    if norm == "batch":
        return keys, {}
    dropped = {key: _UNUSED_STATISTICS for key in keys if key.rpartition(".")[2] in _STATISTICS}
    return {key: ours for key, ours in keys.items() if key not in dropped}, dropped


# --- pix2pix and CycleGAN: the U-Net generator --------------------------------------------------------------------


def _is_pix2pix_unet(state: StateDict) -> bool:
    return {"model.model.0.weight", "model.model.1.model.1.weight", "model.model.3.weight"} <= state.keys()


def _translate_pix2pix_unet(state: StateDict) -> Translation:
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
    norm = _find_norm(state, conv=f"{levels[-1]}.3", norm=f"{levels[-1]}.4")
    keys, dropped = _split_statistics(state, layers, norm)
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
        keys=keys,
        dropped=dropped,
        notes=(
            "Dropout leaves no trace in a file: dropout=0.0 is set. pix2pix trains with 0.5 by default; set that to "
            "continue a training.",
            _BATCH_NORM_NOTE,
        ),
    )


# --- pix2pix and CycleGAN: the discriminators ---------------------------------------------------------------------


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


def _translate_patchgan(state: StateDict) -> Translation:
    is_pixel = "net.0.weight" in state
    root = "net" if is_pixel else "model"
    num_convs = sum(value.ndim > 1 for value in state.values())
    inner = num_convs - 2  # layers with a norm: all but the first and the head
    layers = {f"{root}.0": "layers.0.conv", f"{root}.{3 * inner + 2}": "head"}
    for i in range(1, inner + 1):
        layers |= {f"{root}.{3 * i - 1}": f"layers.{i}.conv", f"{root}.{3 * i}": f"layers.{i}.norm"}
    norm = _find_norm(state, conv=f"{root}.2", norm=f"{root}.3")
    keys, dropped = _split_statistics(state, layers, norm)
    first = state[f"{root}.0.weight"]
    return Translation(
        network_class=PatchDiscriminator,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "channels": first.shape[0],
            "num_layers": 0 if is_pixel else inner,
            "norm": norm,
        },
        keys=keys,
        dropped=dropped,
        notes=("A sigmoid at the end leaves no trace in a file: the network returns logits.",),
    )


FAMILIES: tuple[Family, ...] = (
    Family("pix2pix_unet", "pix2pix and CycleGAN U-Net, *_net_G.pth", _is_pix2pix_unet, _translate_pix2pix_unet),
    Family("patchgan", "pix2pix and CycleGAN discriminator, *_net_D.pth", _is_patchgan, _translate_patchgan),
    Family("pixel_discriminator", "pix2pix --netD pixel, *_net_D.pth", _is_pixel_discriminator, _translate_patchgan),
)

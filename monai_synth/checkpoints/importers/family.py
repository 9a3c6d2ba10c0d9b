"""What every importer is made of: a family of files, the translation of one, and the report of what became of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from monai_synth.checkpoints.weights import StateDict

Hints = Mapping[str, Any]

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_UNUSED_STATISTICS = (
    "running statistics of an instance norm without parameters, written by torch 0.3 and 0.4; never used at inference"
)
_NORMALISED_WEIGHT = "the normalised weight, written by torch 0.4; computed again from weight_orig"
_REBUILT_VECTOR = "rebuilt from weight_orig, weight and weight_u: torch 0.4 did not write it"
# Spectral normalisation, as torch.nn.utils.spectral_norm names it and as our parametrization does.
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


@dataclass(frozen=True)
class ImportReport:
    """What became of a file's entries.

    Attributes:
        file: where they came from.
        used: entry of the file -> entry of our network.
        dropped: entry of the file -> why it is not needed.
        computed: entry of our network that the file does not have -> what it was computed from.
        filled: entries of our network that the file does not have and that keep their start value.
        guesses: ``argument=value`` of the network that no entry tells -> why, and when it is otherwise.
        notes: what a user should know of this file.
    """

    file: str
    used: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    filled: tuple[str, ...] = ()
    guesses: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.format(verbose=True)

    def format(self, *, verbose: bool = False) -> str:
        """What became of the file in words; entries that share a reason share a line unless ``verbose``."""
        lines = [
            f"{self.file}: {len(self.used)} entries used, {len(self.dropped)} dropped, {len(self.computed)} computed, "
            f"{len(self.filled)} filled"
        ]
        filled = dict.fromkeys(self.filled, "not in the file; keeps its start value, which inference does not use")
        for what, entries in (("dropped", self.dropped), ("computed", self.computed), ("filled", filled)):
            for reason in dict.fromkeys(entries.values()):
                keys = [key for key in entries if entries[key] == reason]
                named = ", ".join(keys if verbose or len(keys) < 3 else [keys[0], f"... {len(keys) - 1} more"])
                lines.append(f"  {what} {named}: {reason}")
        for guess, reason in self.guesses.items():
            name = guess.partition("=")[0]
            lines.append(
                f"  check {guess}: {reason} If it is otherwise, give {name} (command line: --option {name}=...)."
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


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
class Placement:
    """Where the entries of a file go.

    Attributes:
        keys: entry of the file -> entry of our network.
        dropped: entry of the file -> why it is not needed.
        computed: entry of our network -> its value and what it was computed from.
    """

    keys: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    computed: dict[str, tuple[Tensor, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Translation:
    """What a family makes of a state dict: a class, its arguments, and where each entry goes.

    Attributes:
        network_class: one of ours.
        arguments: for the class, read from keys and shapes.
        placement: where the entries go.
        guesses: those of the arguments that no entry tells -> why. Only these may be given by the user otherwise.
        notes: what a user should know.
    """

    network_class: type[nn.Module]
    arguments: dict[str, Any]
    placement: Placement
    guesses: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One kind of published file.

    Attributes:
        name: short name, as in the registry where there is one.
        files: what such files are called where they are published.
        recognise: whether a state dict is of this family. A file may be of one family only.
        translate: how to read it; takes the state dict and the arguments that the user knows better.
    """

    name: str
    files: str
    recognise: Callable[[StateDict], bool]
    translate: Callable[[StateDict, Hints], Translation]


def place_layers(state: StateDict, layers: Mapping[str, str], *, has_statistics: bool = True) -> Placement:
    """Give every entry of the named layers its place in our network.

    Spectrally normalised weights get the names of our parametrization; a missing ``weight_v`` is rebuilt.

    Args:
        state: of the file.
        layers: layer of the file -> layer of our network, both without the name of the entry.
        has_statistics: whether our norm layers have running statistics; otherwise those of the file are dropped.
    """
    placement = Placement({})
    for key in state:
        layer, _, entry = key.rpartition(".")
        if layer not in layers:
            continue
        if not has_statistics and entry in STATISTICS:
            placement.dropped[key] = _UNUSED_STATISTICS
        elif entry == "weight" and f"{layer}.weight_orig" in state:
            placement.dropped[key] = _NORMALISED_WEIGHT
        else:
            placement.keys[key] = f"{layers[layer]}.{_SPECTRAL.get(entry, entry)}"
        if entry == "weight_orig" and f"{layer}.weight_v" not in state:
            vector = _rebuild_v(state[key], state[f"{layer}.weight"], state[f"{layer}.weight_u"])
            placement.computed[f"{layers[layer]}.{_SPECTRAL['weight_v']}"] = (vector, _REBUILT_VECTOR)
    return placement


def find_norm(state: StateDict, *, conv: str, norm: str) -> str:
    """Which norm follows a convolution in the pix2pix family.

    Batch norm has weights; instance norm has none, but the convolution in front of it has a bias.
    """
    if f"{norm}.weight" in state:
        return "batch"
    return "instance" if f"{conv}.bias" in state else "none"


def _rebuild_v(original: Tensor, normalised: Tensor, u: Tensor) -> Tensor:
    """The vector v for which ``original / (u^T W v)`` is the weight that was used, with W v as near to u as can be.

    The shortest least squares solution, scaled to give the singular value: up to rounding the v that was lost, as u was
    made from W v. (Torch's own load hook inverts the singular W^T W in single precision and finds a v that gives the
    same singular value, but is rounding noise for the rest.) Solved on the smaller side of W, which is much faster.
    """
    matrix, u_double = original.double().flatten(1), u.double()
    scale = normalised.double().abs().sum()
    sigma = original.double().abs().sum() / scale if scale > 0 else torch.ones((), dtype=torch.double)
    if matrix.shape[0] <= matrix.shape[1]:
        v = matrix.t() @ (torch.linalg.pinv(matrix @ matrix.t(), hermitian=True) @ u_double)
    else:
        v = torch.linalg.pinv(matrix.t() @ matrix, hermitian=True) @ (matrix.t() @ u_double)
    return (v * sigma / torch.dot(u_double, matrix @ v)).to(original.dtype)

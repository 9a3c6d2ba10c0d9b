"""Read the weight files that published methods have left behind.

Each family is one entry of ``FAMILIES``: how to recognise its files by their keys, and how to translate them. Depth,
width, norm and channels follow from keys and shapes; little has to be known about a file beforehand.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_synth.checkpoints.importers import cut, lgg, multiscale, oasis, pix2pix, pix2pixhd, resnet, spade, wavelet
from monai_synth.checkpoints.importers.export import load_network, write_imported
from monai_synth.checkpoints.importers.family import (
    Family,
    ImportedCheckpoint,
    ImportReport,
    Placement,
    Translation,
)
from monai_synth.checkpoints.importers.sources import choose_file, is_ours
from monai_synth.checkpoints.weights import StateDict, load_state, read_state_dict
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks.spectral_norm import fold_spectral_norm as fold
from monai_synth.networks.spectral_norm import has_spectral_norm

__all__ = [
    "FAMILIES",
    "Family",
    "ImportReport",
    "ImportedCheckpoint",
    "Placement",
    "Translation",
    "import_checkpoint",
    "import_state",
    "load_network",
    "write_imported",
]

FAMILIES: tuple[Family, ...] = (
    *oasis.FAMILIES,
    *pix2pix.FAMILIES,
    *cut.FAMILIES,
    *lgg.FAMILIES,
    *multiscale.FAMILIES,
    *pix2pixhd.FAMILIES,
    *resnet.FAMILIES,
    *spade.FAMILIES,
    *wavelet.FAMILIES,
)


def import_checkpoint(file: str | Path, /, *, fold_spectral_norm: bool = False, **hints: Any) -> ImportedCheckpoint:
    """Recognise a published weight file and load it into our network.

    Args:
        file: ``.pth`` or ``.pt``, zip or older format; or a folder of them, where the averaged weights
            (``*_EMA.pth``) come before those of the generator.
        fold_spectral_norm: hand over plain, already normalised weights: the same outputs, faster, and exportable to
            TorchScript, but not meant to be trained on.
        **hints: arguments of the network that its weights do not tell (``noise_channels`` of OASIS, ``upsampling`` of
            SPADE, ``dropout`` of pix2pix, ...); ``report.guesses`` names those that were assumed.

    Raises:
        CheckpointError: if the file cannot be read, is of no known family, or differs from its family or a hint.
        ConfigError: if a hint is no argument of the network, or not a value for it.
    """
    path, notes = choose_file(Path(file))
    return import_state(
        read_state_dict(path), path, fold_spectral_norm=fold_spectral_norm, notes_on_file=notes, **hints
    )


def import_state(
    state: StateDict,
    source: str | Path,
    /,
    *,
    fold_spectral_norm: bool = False,
    notes_on_file: tuple[str, ...] = (),
    **hints: Any,
) -> ImportedCheckpoint:
    """Recognise a published state dict that has been read already; ``source`` names it in reports and errors.

    Arguments and errors are those of :func:`import_checkpoint`.
    """
    family = _recognise(state, source)
    translation = _translate(family, state, hints, source)
    placement = translation.placement
    unknown = [key for key in state if key not in placement.keys and key not in placement.dropped]
    if unknown:
        raise CheckpointError(
            f"{source} looks like {family.name}, but {len(unknown)} of its entries have no place there "
            f"(first: {unknown[0]}). It comes from a modified network, or holds several networks."
        )
    _refuse_other_types(placement, state, source)
    used = {**{key: state[key] for key in placement.keys}, **{k: v for k, (v, _) in placement.computed.items()}}
    # As float32, which our networks are: a weight of 1e60 would be infinite there.
    broken = [key for key, value in used.items() if not value.is_meta and not value.float().isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{source}: {len(broken)} of its entries hold NaN or infinite values (first: {broken[0]}). The training "
            "that wrote it has diverged; take an earlier file."
        )
    _refuse_contradictions(translation, hints, source)
    arguments = {**translation.arguments, **hints}
    network = _build(translation.network_class, arguments, hints)
    start = network.state_dict()
    ours = {key: value for key, (value, _) in placement.computed.items()}
    for key, value in state.items():
        if key in placement.keys:
            is_count = key.endswith("num_batches_tracked")
            ours[placement.keys[key]] = value.reshape(()) if is_count and value.numel() == 1 else value
    # Before torch 0.4.1 batch norm did not count its batches; the count is not used at inference.
    filled = tuple(key for key in start if key not in ours and key.endswith("num_batches_tracked"))
    load_state(network, {**ours, **{key: start[key] for key in filled}}, source=f"{source} (read as {family.name})")
    network.eval()
    _refuse_zero_singular_values(network, source)
    notes = translation.notes + notes_on_file
    if fold_spectral_norm and arguments.get("use_spectral_norm"):
        network, arguments = fold(network), {**arguments, "use_spectral_norm": False}
        notes += ("The spectral norm is folded into the weights: same outputs, not meant to be trained on.",)
    if translation.guesses.get("noise_channels") and "noise_channels" not in hints:
        setattr(network, "is_noise_guessed", True)  # noqa: B010
    return ImportedCheckpoint(
        family=family.name,
        network=network,
        network_def={
            "_target_": f"{translation.network_class.__module__}.{translation.network_class.__qualname__}",
            **arguments,
        },
        report=ImportReport(
            file=str(source),
            used={key: ours_key for key, ours_key in placement.keys.items() if key in state},
            dropped=placement.dropped,
            computed={key: reason for key, (_, reason) in placement.computed.items()},
            filled=filled,
            guesses={
                f"{name}={arguments[name]!r}": reason
                for name, reason in translation.guesses.items()
                if reason and name not in hints
            },
            notes=tuple(f"{name}={value!r}, as given." for name, value in hints.items()) + notes,
        ),
    )


def _recognise(state: StateDict, source: str | Path) -> Family:
    matches = [family for family in FAMILIES if family.recognise(state)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise CheckpointError(
            f"{source} holds entries of {len(matches)} families ({', '.join(family.name for family in matches)}). "
            "Save each network in a file of its own."
        )
    if is_ours(Path(source)):
        raise CheckpointError(
            f"{source} is a file of monai_synth already, as {Path(source).with_suffix('.json').name} beside it says. "
            "Use it as it is: --checkpoint, --initial_weights, or monai_synth.checkpoints.load_network."
        )
    known = "\n".join(f"  {family.name}: {family.files}" for family in FAMILIES)
    raise CheckpointError(
        f"{source} is of no known family: its {len(state)} entries start with {', '.join(list(state)[:3])}. "
        f"Families that can be imported:\n{known}"
    )


def _translate(family: Family, state: StateDict, hints: dict[str, Any], source: str | Path) -> Translation:
    try:
        return family.translate(state, hints)
    except TypeError as error:
        if not hints:
            raise
        raise ConfigError(
            f"{_format(hints)} cannot be used with {family.name}: {error}. Check the kind of value."
        ) from error
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        what = f"there is no entry {error}" if isinstance(error, KeyError) else f"its shapes do not fit: {error}"
        raise CheckpointError(
            f"{source} looks like {family.name}, but its layout is none of the published ones ({what}). It is "
            "incomplete or comes from a modified network."
        ) from error


def _refuse_other_types(placement: Placement, state: StateDict, source: str | Path) -> None:
    """Weights are dense floating point numbers; quantised or sparse ones would be read as something else."""
    for key in placement.keys:
        value = state[key]
        is_count = key.endswith("num_batches_tracked")
        if value.layout is not torch.strided or value.is_quantized or not (value.is_floating_point() or is_count):
            raise CheckpointError(
                f"{source}: the entry {key} is of type {value.dtype} ({value.layout}); weights are dense floating "
                "point numbers. Convert the file where it was made."
            )


def _refuse_zero_singular_values(network: nn.Module, source: str | Path) -> None:
    """A spectral norm divides by a singular value; without u or v that is 0 and every output NaN."""
    for name, module in network.named_modules():
        if not has_spectral_norm(module):
            continue
        original = module.get_parameter("parametrizations.weight.original")
        if not original.is_meta and bool(original.any()) and not bool(torch.isfinite(module.weight).all()):
            raise CheckpointError(
                f"{source}: the singular vectors of {name} are 0 or broken, so its weight would be NaN. The file is "
                "damaged."
            )


def _refuse_contradictions(translation: Translation, hints: dict[str, Any], source: str | Path) -> None:
    """A hint may say what a file does not tell, not the opposite of what it tells."""
    for name, given in hints.items():
        found = translation.arguments.get(name, given)
        if isinstance(found, bool) != isinstance(given, bool):
            raise ConfigError(f"{name}={given!r}: give True or False.")
        if isinstance(found, tuple):
            found = list(found)
        is_free = name == "dropout" or name in translation.guesses  # dropout: for the training that is to come
        if not is_free and found != (list(given) if isinstance(given, tuple) else given):
            raise CheckpointError(
                f"{source} has {name}={found!r} by its entries, so {name}={given!r} cannot be right. Leave it out."
            )


def _build(network_class: type[nn.Module], arguments: dict[str, Any], hints: dict[str, Any]) -> nn.Module:
    known = inspect.signature(network_class).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(
            f"{network_class.__name__} has no argument {', '.join(unknown)}. Its arguments are: {', '.join(known)}."
        )
    try:
        with torch.random.fork_rng(devices=[]):  # start values are overwritten: they need not move the user's seed
            return network_class(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        if not hints:
            raise
        raise ConfigError(
            f"{network_class.__name__} cannot be built with {_format(hints)}: {error}. Check the kind of value."
        ) from error


def _format(hints: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in hints.items())

"""Read the weight files that published methods have left behind.

Each family is one entry of ``FAMILIES``: how to recognise its files by their keys, and how to translate them. Depth,
width, norm and channels follow from keys and shapes; little has to be known about a file beforehand.
"""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from monai_synth.checkpoints.importers import cut, lgg, multiscale, oasis, pix2pix, pix2pixhd, resnet, spade, wavelet
from monai_synth.checkpoints.importers.export import write_imported
from monai_synth.checkpoints.importers.family import (
    Family,
    ImportedCheckpoint,
    ImportReport,
    Placement,
    Translation,
)
from monai_synth.checkpoints.weights import StateDict, load_state, read_state_dict
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks.spectral_norm import fold_spectral_norm as fold

__all__ = [
    "FAMILIES",
    "Family",
    "ImportReport",
    "ImportedCheckpoint",
    "Placement",
    "Translation",
    "import_checkpoint",
    "import_state",
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


def import_checkpoint(file: str | Path, *, fold_spectral_norm: bool = False, **hints: Any) -> ImportedCheckpoint:
    """Recognise a published weight file and load it into our network.

    Args:
        file: ``.pth`` or ``.pt``, zip or older format; or a folder of them, where the averaged weights
            (``*_EMA.pth``) come before those of the generator.
        fold_spectral_norm: hand over plain, already normalised weights: the same outputs, faster, and exportable to
            TorchScript, but not meant to be trained on.
        **hints: arguments of the network that its weights do not tell (``noise_channels`` of OASIS, ``upsampling`` of
            SPADE, ``dropout`` of pix2pix, ...); they win over what was inferred.

    Raises:
        CheckpointError: if the file cannot be read, is of no known family, or differs from its family.
        ConfigError: if a hint is no argument of the network.
    """
    path = _choose_file(Path(file))
    return import_state(read_state_dict(path), path, fold_spectral_norm=fold_spectral_norm, **hints)


def import_state(
    state: StateDict, source: str | Path, *, fold_spectral_norm: bool = False, **hints: Any
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
    broken = [key for key in placement.keys if not state[key].is_meta and not state[key].isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{source}: {len(broken)} of its entries hold NaN or infinite values (first: {broken[0]}). The training "
            "that wrote it has diverged; take an earlier file."
        )
    arguments = {**translation.arguments, **hints}
    network = _build(translation.network_class, arguments)
    start = network.state_dict()
    ours = {key: value for key, (value, _) in placement.computed.items()}
    for key, value in state.items():
        if key in placement.keys:
            is_count = key.endswith("num_batches_tracked")
            ours[placement.keys[key]] = value.reshape(()) if is_count and value.numel() == 1 else value
    # Before torch 0.4.1 batch norm did not count its batches; the count is not used at inference.
    filled = tuple(key for key in start if key not in ours and key.endswith("num_batches_tracked"))
    load_state(network, {**ours, **{key: start[key] for key in filled}}, source=f"{source} (read as {family.name})")
    if fold_spectral_norm and "use_spectral_norm" in arguments:
        network, arguments = fold(network), {**arguments, "use_spectral_norm": False}
    return ImportedCheckpoint(
        family=family.name,
        network=network.eval(),
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
            notes=translation.notes + _notes_on_file(Path(source)),
        ),
    )


def _choose_file(path: Path) -> Path:
    """A file itself; of a folder the averaged weights, else the generator's, the best before the latest."""
    if not path.is_dir():
        return path
    patterns = (
        "best_EMA.pth",
        "latest_EMA.pth",
        "*_EMA.pth",
        "best_G.pth",
        "latest_net_G.pth",
        "latest_G.pth",
        "*_G.pth",
    )
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{path} holds {len(found)} files {pattern} ({', '.join(file.name for file in found[:4])}). Name one."
            )
    raise CheckpointError(f"{path} is a folder without a file *_EMA.pth or *_G.pth. Name the file to import.")


def _notes_on_file(path: Path) -> tuple[str, ...]:
    averaged = path.with_name(path.name.replace("_G.", "_EMA."))
    if averaged == path or not averaged.exists():
        return ()
    return (f"Beside it lies {averaged.name}: the averaged weights, which the published results were made with.",)


def _recognise(state: StateDict, source: str | Path) -> Family:
    matches = [family for family in FAMILIES if family.recognise(state)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise CheckpointError(
            f"{source} holds entries of {len(matches)} families ({', '.join(family.name for family in matches)}). "
            "Save each network in a file of its own."
        )
    known = "; ".join(f"{family.name} ({family.files})" for family in FAMILIES)
    raise CheckpointError(
        f"{source} is of no known family: its {len(state)} entries start with {', '.join(list(state)[:3])}. "
        f"Families that can be imported: {known}."
    )


def _translate(family: Family, state: StateDict, hints: dict[str, Any], source: str | Path) -> Translation:
    try:
        return family.translate(state, hints)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{source} looks like {family.name}, but its layout is none of the published ones ({error!s} is missing or "
            "has an unexpected shape). It is incomplete or comes from a modified network."
        ) from error


def _build(network_class: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    known = inspect.signature(network_class).parameters
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ConfigError(
            f"{network_class.__name__} has no argument {', '.join(unknown)}. Its arguments are: {', '.join(known)}."
        )
    return network_class(**arguments)

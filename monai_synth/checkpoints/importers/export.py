"""Put an imported network where a bundle finds it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from monai_synth.checkpoints.importers.family import ImportedCheckpoint
from monai_synth.checkpoints.weights import load_weights, save_weights
from monai_synth.errors import CheckpointError, ConfigError


def write_imported(imported: ImportedCheckpoint, out: str | Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write ``model.pt`` and, beside it, a config file with its ``network_def``.

    The second file can be laid over a bundle's config:
    ``--config_file "['configs/inference.json','model.json']" --checkpoint model.pt``.

    Args:
        imported: what :func:`monai_synth.checkpoints.import_checkpoint` returned.
        out: the weights to write; the config file has the same name with ``.json``.
        overwrite: replace files that are there.

    Returns:
        The weights and the config file.

    Raises:
        ConfigError: if one of the files is there already.
        CheckpointError: if they cannot be written.
    """
    path = Path(out)
    if path.suffix not in (".pt", ".pth"):
        raise ConfigError(f"{path}: weights are written to a file that ends in .pt or .pth, such as model.pt.")
    config = path.with_suffix(".json")
    for file in (path, config):
        if file.exists() and not overwrite:
            raise ConfigError(f"{file} is there already. Write to another place, or replace it with --overwrite.")
        if file.is_dir():
            raise ConfigError(f"{file} is a folder. Write to another place.")
    report = imported.report
    if path.resolve() == Path(report.file).resolve():
        raise ConfigError(f"{path} is the published file itself, which would be lost. Write to another place.")
    source = Path(report.file)
    origin: dict[str, Any] = {
        "family": imported.family,
        "file": str(source),
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else None,
        "used": report.used,
        "dropped": report.dropped,
        "computed": report.computed,
        "filled": list(report.filled),
        "guesses": report.guesses,
        "notes": list(report.notes),
    }
    save_weights(imported.network, path, extra_json={"network_def": imported.network_def, "imported_from": origin})
    return path, config


def load_network(file: str | Path) -> nn.Module:
    """Build the network that a ``network_def`` beside a weight file describes, and load the weights.

    Args:
        file: weights that :func:`write_imported` wrote, ``model.pt`` with ``model.json``.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        CheckpointError: if there is no such description, or the weights do not fit it.
    """
    config = Path(file).with_suffix(".json")
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config} cannot be read ({error}). It holds the network_def of {file}: copy both files together."
        ) from error
    if not isinstance(record, dict) or "_target_" not in record.get("network_def", {}):
        raise CheckpointError(
            f"{config} has no network_def. Build the network yourself and use load_weights, or import the file again."
        )
    network = ConfigParser(record).get_parsed_content("network_def")
    load_weights(network, file)
    return network.eval()

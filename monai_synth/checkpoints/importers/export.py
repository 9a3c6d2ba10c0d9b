"""Put an imported network where a bundle finds it."""

from pathlib import Path
from typing import Any

from monai_synth.checkpoints.importers.family import ImportedCheckpoint
from monai_synth.checkpoints.weights import save_weights
from monai_synth.errors import ConfigError


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
        raise ConfigError(f"{path}: weights are written to a file that ends in .pt, such as model.pt.")
    config = path.with_suffix(".json")
    for file in (path, config):
        if file.exists() and not overwrite:
            raise ConfigError(f"{file} is there already. Write to another place, or replace it with --overwrite.")
    report = imported.report
    origin: dict[str, Any] = {
        "family": imported.family,
        "file": Path(report.file).name,
        "used": report.used,
        "dropped": report.dropped,
        "computed": report.computed,
        "filled": list(report.filled),
        "notes": list(report.notes),
    }
    save_weights(imported.network, path, extra_json={"network_def": imported.network_def, "imported_from": origin})
    return path, config

"""Which file of a folder is meant, and which files are ours already."""

import json
from fnmatch import fnmatch
from pathlib import Path

from monai_synth.errors import CheckpointError

_PREFERRED = (
    "best_EMA.pth",
    "latest_EMA.pth",
    "*_EMA.pth",
    "best_G.pth",
    "latest_net_G.pth",
    "latest_G.pth",
    "*_G.pth",
)


def choose_file(path: Path) -> tuple[Path, tuple[str, ...]]:
    """A file itself; of a folder the averaged weights, else the generator's, the best before the latest.

    Returns:
        The file, and notes on those that were not taken.

    Raises:
        CheckpointError: if a folder has no such file, or several.
    """
    if not path.is_dir():
        averaged = path.with_name(path.name.replace("_G.", "_EMA."))
        if averaged == path or not averaged.exists():
            return path, ()
        return path, (
            f"Beside it lies {averaged.name}: the averaged weights, which the published results were made with.",
        )
    files = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt"))
    for pattern in _PREFERRED:
        found = [name for name in files if fnmatch(name, pattern)]
        if len(found) == 1:
            others = [name for name in files if name != found[0]]
            return path / found[0], (
                f"Of the folder, {found[0]} was taken, not {', '.join(others)}.",
            ) if others else ()
        if found:
            raise CheckpointError(f"{path} holds {len(found)} files {pattern} ({', '.join(found[:4])}). Name one.")
    raise CheckpointError(
        f"{path} is a folder without a file *_EMA.pth or *_G.pth; it holds {', '.join(files[:6]) or 'no .pth file'}. "
        "Name the file to import."
    )


def is_ours(path: Path) -> bool:
    """Whether a record beside the file says that this package wrote it."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and bool({"network_def", "networks"} & record.keys())

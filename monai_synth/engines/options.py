"""Misspelt options of ``python -m monai.bundle run``, which MONAI takes for new configuration values."""

import ast
import difflib
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from monai_synth.errors import ConfigError

# What MONAI's own command takes, beside the configuration's values.
_OF_MONAI = frozenset(
    {
        "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
        "experiment_name", "run_name", "tracking_uri", "bundle_root",
    }
)  # fmt: skip


def refuse_unknown_options(arguments: Sequence[str] | None = None) -> None:
    """Stop when the command line names a value that no configuration has.

    Args:
        arguments: of the command; default: those of this process if it is ``monai.bundle``, else nothing is checked.

    Raises:
        ConfigError: naming the option and the nearest one that there is.
    """
    if arguments is None:
        if "monai" not in Path(sys.argv[0]).parts:
            return
        arguments = sys.argv[1:]
    given = [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")]
    known = set(_OF_MONAI)
    for file in _config_files(arguments):
        known |= {
            name.lstrip("+").split("#")[0].split("::")[0] for name in json.loads(file.read_text(encoding="utf-8"))
        }
    for option in given:
        name = option.lstrip("+").split("#")[0].split("::")[0]
        if len(known) > len(_OF_MONAI) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean --{near[0]}?" if near else f"There are: {', '.join(sorted(known - _OF_MONAI))}."
            raise ConfigError(f"--{option} is no option of this bundle. {hint}")


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The JSON files that ``--config_file`` names: one, or a list in Python's notation."""
    values = [a.partition("=")[2] for a in arguments if a.startswith("--config_file=")]
    values += [b for a, b in pairwise(arguments) if a == "--config_file"]
    files: list[str] = []
    for value in values:
        parsed = ast.literal_eval(value) if value.lstrip().startswith(("[", "(")) else value
        files += [parsed] if isinstance(parsed, str) else list(parsed)
    return [path for file in files if (path := Path(file)).is_file() and path.suffix == ".json"]

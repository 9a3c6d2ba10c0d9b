"""Options of ``python -m monai.bundle run`` that MONAI takes for something else than was meant, without a word.

A misspelt name becomes a new configuration value, ``null`` becomes a text, and an option that is ``None`` is left out.
"""

import ast
import difflib
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from monai_synth.errors import ConfigError

# What MONAI's own command takes, beside the configuration's values.
_OF_MONAI = frozenset(
    {
        "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
        "experiment_name", "run_name", "tracking_uri", "bundle_root",
    }
)  # fmt: skip


def refuse_unknown_options(arguments: Sequence[str] | None = None) -> None:
    """Stop when the command line names a value that no configuration has, or gives one in a way that MONAI drops.

    Args:
        arguments: of the command; default: those of this process if it is ``monai.bundle``, else nothing is checked.

    Raises:
        ConfigError: naming the option and the nearest one that there is, or how to give an option no value.
    """
    if arguments is None:
        if "monai" not in Path(sys.argv[0]).parts:
            return
        arguments = sys.argv[1:]
    configured: dict[str, Any] = {}
    for file in _config_files(arguments):
        content = json.loads(file.read_text(encoding="utf-8"))
        configured |= {_top(name): value for name, value in content.items() if "#" not in name and "::" not in name}
        configured |= {_top(name): None for name in content if _top(name) not in configured}
    known = _OF_MONAI | configured.keys()
    for option, value in _options(arguments):
        name = _top(option)
        if configured and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean --{near[0]}?" if near else f"There are: {', '.join(sorted(known - _OF_MONAI))}."
            raise ConfigError(f"--{option} is no option of this bundle. {hint}")
        if name in configured and _means_nothing(value, takes_words="#" in option or _is_text(configured[name])):
            fate = "is left out by MONAI, so that the default stays" if value == "None" else "is a word here"
            raise ConfigError(
                f"--{option} {value}: {value} {fate}. For no value at all give --{option} '$None', in single quotes."
            )


def _top(name: str) -> str:
    """The section that an option or a key of an overlay changes."""
    return name.lstrip("+").split("#")[0].split("::")[0]


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of the options, as ``--name value`` or ``--name=value``; the value is empty where none is."""
    pairs = []
    for argument, following in pairwise([*arguments, "--"]):
        if argument.startswith("--"):
            name, has_value, value = argument[2:].partition("=")
            pairs.append((name, value if has_value else "" if following.startswith("--") else following))
    return pairs


def _is_text(configured: Any) -> bool:
    """Whether a value of a configuration is a text itself, not an expression or a reference."""
    return isinstance(configured, str) and not configured.startswith(("$", "@", "%"))


def _means_nothing(value: str, *, takes_words: bool) -> bool:
    """Whether a value was meant as no value; ``none`` is the name of a norm too."""
    return value == "None" or value.lower() == "null" or (value.lower() == "none" and not takes_words)


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The JSON files that ``--config_file`` names: one, or a list in Python's notation."""
    values = [a.partition("=")[2] for a in arguments if a.startswith("--config_file=")]
    values += [b for a, b in pairwise(arguments) if a == "--config_file"]
    files: list[str] = []
    for value in values:
        parsed = ast.literal_eval(value) if value.lstrip().startswith(("[", "(")) else value
        files += [parsed] if isinstance(parsed, str) else list(parsed)
    return [path for file in files if (path := Path(file)).is_file() and path.suffix == ".json"]

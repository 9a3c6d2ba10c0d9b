"""Errors that a user of monai_synth can meet.

Every message names the thing, its value, the rule it breaks and the way out.
"""

import os
import sys
from collections.abc import Callable
from types import TracebackType


class SynthError(Exception):
    """Base of all errors raised on purpose by monai_synth."""


class ManifestError(SynthError):
    """A manifest, or a file that it names, breaks the column contract."""


class LeakageError(ManifestError):
    """A patient would be on both sides of a training and its evaluation."""


class GeometryError(SynthError):
    """Two images that should share a voxel grid do not."""


class LabelError(SynthError):
    """A label map or mask holds values that have no meaning."""


class IntensityError(SynthError):
    """Intensities that cannot be mapped to the range of a network."""


class CheckpointError(SynthError):
    """A checkpoint is damaged, unsafe or belongs to another network."""


class ConfigError(SynthError):
    """A bundle configuration or a combination of options that cannot work."""


class DivergenceError(SynthError):
    """A training that can no longer succeed: a loss or an image is not finite."""


def explain_errors() -> None:
    """Let an uncaught error of monai_synth end the program with its sentence instead of a traceback.

    MONAI wraps what happens inside a bundle's configuration in errors of its own, with some hundred lines of traceback
    in which the sentence is lost. Every other error is shown as before; ``MONAI_SYNTH_TRACEBACK=1`` shows all of it.
    """
    if sys.excepthook is _show_sentence or os.environ.get("MONAI_SYNTH_TRACEBACK", "0") not in ("", "0"):
        return
    global _previous_hook
    _previous_hook = sys.excepthook
    sys.excepthook = _show_sentence


def _show_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SynthError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        _previous_hook(kind, error, trace)
        return
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {cause}\n(MONAI_SYNTH_TRACEBACK=1 shows where it happened.)\n")


_previous_hook: Callable[[type[BaseException], BaseException, TracebackType | None], object] = sys.__excepthook__

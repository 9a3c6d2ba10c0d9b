"""Files of tensors: written all or nothing, read without running code."""

import os
import pickle
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from monai_synth.errors import CheckpointError, ConfigError


def save_file(content: Any, file: str | Path) -> None:
    """Write tensors and plain containers, atomically.

    Raises:
        CheckpointError: if the file cannot be written; what was there is unchanged.
    """
    path = Path(file)
    with naming_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_files([(path, lambda stream: torch.save(content, stream))])


@contextmanager
def naming_file(file: str | Path) -> Iterator[None]:
    """Name the file when it cannot be written: a full disk does not say where.

    Raises:
        CheckpointError: instead of an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error}. Files that were there are unchanged.") from error


def require_writable(directory: str | Path) -> None:
    """Make a folder, and see that files can be put into it, before anything is computed for it.

    Raises:
        ConfigError: if that is not possible.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written into {folder} ({error.strerror or error}). Give a folder of yours with "
            f"--output_dir."
        ) from error


def load_file(file: str | Path) -> Any:
    """Read tensors and plain containers on the CPU, in the zip format or the older one.

    Raises:
        CheckpointError: if the file is absent, damaged or unsafe.
    """
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Check the path; nothing is downloaded.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        pickled = re.search(r"GLOBAL ([\w.]+)", str(error))
        if pickled:
            raise CheckpointError(
                f"{path} holds pickled Python objects ({pickled[1]}), which could run any code; only tensors are "
                "loaded. Ask its author for a state dict, or convert it where you trust it."
            ) from error
        raise _damaged(path, error) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive, not a state dict. Load it with torch.jit.load, or use model.pt."
            ) from error
        raise _damaged(path, error) from error
    except (
        EOFError,
        KeyError,
        ValueError,
        IndexError,
        AttributeError,
        TypeError,
        OSError,
        struct.error,
        AssertionError,
    ) as error:
        # What torch's reader raises for files that are no checkpoints at all depends on their first bytes.
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:120] if lines and not isinstance(error, pickle.UnpicklingError) else type(error).__name__
    return CheckpointError(
        f"{path} ({path.stat().st_size} bytes) is truncated, damaged or no torch file ({reason}). "
        "Copy or download it again and compare the sizes."
    )


def write_files(jobs: Iterable[tuple[Path, Callable[[IO[bytes]], object]]]) -> None:
    """Write every file beside its destination and move all into place when all are safe on disk."""
    moves: list[tuple[Path, Path]] = []
    try:
        for path, write in jobs:
            draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            moves.append((draft, path))
            with draft.open("wb") as stream:
                _write(write, stream)
                stream.flush()
                os.fsync(stream.fileno())
        for draft, path in moves:
            os.replace(draft, path)
    finally:
        for draft, _ in moves:
            draft.unlink(missing_ok=True)


class _NotingStream:
    """A file that remembers why it could not be written: torch makes a RuntimeError about positions of a full disk."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.stream.flush()


def _write(write: Callable[[IO[bytes]], object], stream: IO[bytes]) -> None:
    noting = _NotingStream(stream)
    try:
        write(noting)  # type: ignore[arg-type]
    except RuntimeError as error:
        if noting.failure is not None:
            raise noting.failure from error
        raise

"""Prepared volumes on disk, slice first, one ``.npy`` file per key, so that one slice is one contiguous read.

Shapes: ``(C, X, Y, Z)`` in, ``(S, C, H, W)`` on disk. A prepared case is named by a hash of everything that made it
and exists as soon as its ``.json`` does; all files appear by renaming, so that several processes may build one cache.
Nothing stays open or mapped between reads: memory does not grow with the cohort, and workers may fork or spawn.
"""

import copy
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import monai
import numpy as np
import torch
from monai.data.utils import pickle_hashing
from monai.transforms import Compose
from numpy.lib import format as npy_format

from monai_synth.data.cases import apply_to_case, label_of, path_in
from monai_synth.data.grids import refuse_other_grids
from monai_synth.errors import ConfigError, GeometryError, IntensityError, ManifestError

__all__ = ["SliceFile", "StoredCase", "VolumeCache"]

logger = logging.getLogger(__name__)

# Raise when the meaning of the files changes.
_LAYOUT = 1
_LEFTOVER_S = 3600.0


@dataclass(frozen=True)
class SliceFile:
    """One prepared volume ``(S, C, H, W)`` in a ``.npy`` file."""

    file: str
    dtype: str
    shape: tuple[int, int, int, int]
    offset: int

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read slices ``(len(indices), C, H, W)``; ``indices`` must be in ascending order, repeats allowed."""
        first, last = int(indices[0]), int(indices[-1])
        per_slice = int(np.prod(self.shape[1:]))
        dtype = np.dtype(self.dtype)
        count = (last - first + 1) * per_slice
        flat = np.fromfile(self.file, dtype, count, offset=self.offset + first * per_slice * dtype.itemsize)
        if flat.size != count:
            raise ManifestError(
                f"{self.file} ended early: it was changed while in use. Delete the cache folder and start again."
            )
        block = flat.reshape(-1, *self.shape[1:])
        return block if len(block) == len(indices) else block[indices - first]


@dataclass(frozen=True)
class StoredCase:
    """Files of one prepared case, and the voxels of foreground in every slice (``None`` without a foreground key)."""

    files: dict[str, SliceFile]
    foreground: np.ndarray | None
    num_slices: int


class VolumeCache:
    """Prepare cases once and find them again.

    Args:
        directory: folder of the cache; made when missing.
        transform: deterministic; turns a case into channel-first volumes.
        keys: volumes to store.
        axis: spatial axis of the slices; ``(C, H, W)`` images are one slice whatever the axis.
        foreground_key: volume whose non-zero voxels are counted in every slice; stored as uint8 where it holds whole
            numbers of that range.

    Raises:
        ConfigError: if the transform cannot be pickled, which is how its settings enter the name of a case.
    """

    def __init__(
        self,
        directory: Path,
        transform: Callable[[dict[str, Any]], Mapping[Hashable, Any]],
        *,
        keys: Sequence[str],
        axis: int,
        foreground_key: str | None,
    ) -> None:
        self.directory = directory
        self.transform = transform
        self.keys = tuple(keys)
        self.axis = axis
        self.foreground_key = foreground_key
        try:
            package = version("monai_synth")
        except PackageNotFoundError:
            package = "uninstalled"
        try:
            recipe = _recipe(transform)
        except Exception as error:
            raise ConfigError(
                f"The transform cannot be pickled ({error}), but the cache is named by its settings. Use named "
                "functions of a module instead of lambda and local functions."
            ) from error
        self._recipe = [_LAYOUT, package, monai.__version__, recipe, list(self.keys), axis, foreground_key]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Prepared volumes cannot be kept in {self.directory} ({error.strerror}). Give a folder of yours with "
                "--output_dir or --cache_dir."
            ) from error
        for leftover in self.directory.glob(".*.tmp"):
            _remove_if_old(leftover)

    def name(self, case: Mapping[str, Any]) -> str:
        """Hash everything that a prepared case depends on: its files, the transforms, keys, axis and versions."""
        sources = {str(key): _identity(value) for key, value in case.items() if key != "split"}
        text = json.dumps([self._recipe, sources], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def get(self, case: Mapping[str, Any]) -> StoredCase:
        """Find a prepared case, or prepare it when it is missing, outdated or damaged."""
        name = self.name(case)
        stored = self._open(name)
        if stored is None:
            self._write(name, case)
            stored = self._open(name)
        if stored is None:
            raise ManifestError(
                f"{label_of(case)}: the files {self.directory / name}.* are damaged right after writing. "
                "Is the disk of cache_dir full or failing?"
            )
        return stored

    def _open(self, name: str) -> StoredCase | None:
        """Check the files of a case; ``None`` where it must be prepared."""
        try:
            record = json.loads((self.directory / f"{name}.json").read_text())
            files = {key: _open_npy(self.directory / file) for key, file in record["files"].items()}
            foreground = None if record["foreground"] is None else np.asarray(record["foreground"], dtype=np.int64)
            num_slices = {file.shape[0] for file in files.values()}
            if set(files) != set(self.keys) or len(num_slices) != 1:
                raise ValueError("the record does not fit the files")
            if foreground is not None and {len(foreground)} != num_slices:
                raise ValueError("the foreground does not fit the files")
            return StoredCase(files, foreground, num_slices.pop())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("Cache %s in %s is damaged (%s) and made again.", name, self.directory, error)
            return None

    def _write(self, name: str, case: Mapping[str, Any]) -> None:
        volumes, foreground = self._prepare(case)
        files = {key: f"{name}.{k}.npy" for k, key in enumerate(volumes)}
        for key, volume in volumes.items():
            self._replace(files[key], partial(np.save, arr=volume))
        record = json.dumps({"files": files, "foreground": foreground})
        self._replace(f"{name}.json", lambda stream: stream.write(record.encode()))

    def _replace(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        """Let a file appear complete or not at all, also after a crash and with several writers of the same content."""
        temporary = self.directory / f".{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self.directory / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _prepare(self, case: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], list[int] | None]:
        """Run the transform and bring every volume into ``(S, C, H, W)``."""
        data = apply_to_case(self.transform, case)
        wanted = list(dict.fromkeys([*self.keys] + ([self.foreground_key] if self.foreground_key else [])))
        if missing := [key for key in wanted if key not in data]:
            raise ConfigError(
                f"{label_of(case)}: the transform gives no {missing}, only {sorted(map(str, data))}. Add the role to "
                "the manifest and the key to the transform, or leave it out of keys and foreground_key."
            )
        refuse_other_grids({key: data[key] for key in wanted}, case=str(case["case_id"]))
        arrays = {key: _array(data[key]) for key in wanted}
        shapes = {key: array.shape[1:] for key, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            raise GeometryError(
                f"{label_of(case)}: volumes differ in shape: "
                + ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items())
                + ". Resample them to one grid, for example with ResampleToMatchd, or check that the files match."
            )
        for key, array in arrays.items():
            if array.dtype.kind == "f" and (count := int(array.size - np.isfinite(array).sum())):
                raise IntensityError(
                    f"{label_of(case)}: {count} of {array.size} values of {key!r} are NaN or infinite after the "
                    "transform. Repair the file, or fill them with the background before anything else."
                )
        volumes = {key: self._slice_first(array, key, case) for key, array in arrays.items()}
        foreground = None
        if self.foreground_key is not None:
            mask = volumes[self.foreground_key]
            foreground = np.count_nonzero((mask > 0).any(axis=1), axis=(1, 2)).tolist()
            if not any(foreground):
                raise ManifestError(
                    f"{label_of(case)}: {self.foreground_key!r} is empty: no voxel is above 0, so no slice of this "
                    "case can be used. Draw it again, or take the case out of the manifest."
                )
            volumes[self.foreground_key] = _as_mask(mask)
        return {key: volumes[key] for key in self.keys}, foreground

    def _slice_first(self, array: np.ndarray, key: str, case: Mapping[str, Any]) -> np.ndarray:
        if array.ndim == 3:
            return np.ascontiguousarray(array[None])
        if array.ndim != 4:
            raise GeometryError(
                f"{label_of(case)}: {key!r} has shape {array.shape} after the transform; need (C, X, Y, Z), or "
                "(C, H, W) for single images. Use LoadImaged(ensure_channel_first=True)."
            )
        return np.ascontiguousarray(np.moveaxis(array, self.axis + 1, 0))


def _remove_if_old(temporary: Path) -> None:
    """Remove what a killed process left; a file that is being written now is younger."""
    with suppress(FileNotFoundError):
        if time.time() - temporary.stat().st_mtime > _LEFTOVER_S:
            temporary.unlink()


def _recipe(transform: Callable[..., Any]) -> str:
    """Hash the settings of a transform, not its state: equal in every process, before and after use."""
    # Without the Compose around them: its random state differs in every process.
    parts = list(transform.flatten().transforms) if isinstance(transform, Compose) else [transform]
    parts = copy.deepcopy(parts)
    for part in parts:
        # A DICOM reader collects the names of all files that it was ever offered.
        for reader in getattr(getattr(part, "_loader", part), "readers", ()):
            vars(reader).pop("filenames", None)
    return pickle_hashing(parts).decode()


def _identity(value: Any) -> Any:
    """Describe one value of a case so that it changes when the value, or the file that it names, changes."""
    if isinstance(value, torch.Tensor | np.ndarray):
        array = _array(value)
        return [array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if (path := path_in(value)) is not None:
        # A folder is a DICOM series.
        members = sorted(member for member in path.rglob("*") if member.is_file()) if path.is_dir() else [path]
        found = [(member, member.stat()) for member in members if member.exists()]
        return [str(path), [[str(member), state.st_size, state.st_mtime_ns] for member, state in found]]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return pickle_hashing(value).decode()


def _array(value: Any) -> np.ndarray:
    """Give a plain array of a type that is stored: float32, uint8, int16 or int32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype in (np.uint8, np.int16) or array.size == 0:
        return array
    low, high = int(array.min()), int(array.max())
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array.astype(np.int64)


def _as_mask(mask: np.ndarray) -> np.ndarray:
    """Store whole numbers from 0 to 255 as uint8: loading made floats of them."""
    if mask.size and mask.min() >= 0 and mask.max() <= 255 and np.array_equal(mask, np.rint(mask)):
        return mask.astype(np.uint8)
    return mask


def _open_npy(file: Path) -> SliceFile:
    """Read the header of a file and check that it is complete."""
    with file.open("rb") as stream:
        npy_format.read_magic(stream)
        shape, is_fortran, dtype = npy_format.read_array_header_1_0(stream)
        offset = stream.tell()
    expected = offset + int(np.prod(shape)) * dtype.itemsize
    if is_fortran or len(shape) != 4 or file.stat().st_size != expected:
        raise ValueError(f"{file.name} has {file.stat().st_size} bytes instead of {expected}")
    return SliceFile(str(file), dtype.str, (shape[0], shape[1], shape[2], shape[3]), offset)

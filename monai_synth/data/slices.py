"""Slices of prepared volumes as a map-style dataset: shuffled, distributed, with neighbours, flat in memory.

Shapes: volumes ``(C, X, Y, Z)`` from the transform, items ``(C, H, W)``. Values are those of the transform.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable
from monai.utils import optional_import
from torch.utils.data import Dataset

from monai_synth.data.volume_cache import StoredCase, VolumeCache
from monai_synth.errors import ConfigError, ManifestError

__all__ = ["SliceDataset", "neighbour_indices"]


def neighbour_indices(position: int | np.ndarray, num_slices: int, num_neighbours: int) -> np.ndarray:
    """Give the slices around a position, in ascending order; at the ends the outermost one is repeated.

    Args:
        position: index of a slice, or several ``(n,)``.
        num_slices: slices of the volume.
        num_neighbours: slices on each side.

    Returns:
        ``(2 * num_neighbours + 1,)`` or ``(n, 2 * num_neighbours + 1)``, ascending.
    """
    offsets = np.arange(-num_neighbours, num_neighbours + 1)
    return np.clip(np.asarray(position)[..., None] + offsets, 0, num_slices - 1)


class SliceDataset(Dataset[dict[str, Any]]):
    """All slices of many volumes, each volume prepared once and kept on disk.

    Args:
        data: cases with ``case_id``, ``patient_id`` and absolute paths, as :meth:`Manifest.cases` gives them.
        transform: deterministic; gives channel-first volumes ``(C, X, Y, Z)`` on one grid for all ``keys``. Images
            ``(C, H, W)`` count as one slice.
        keys: what an item holds.
        axis: spatial axis that slices are perpendicular to.
        num_neighbours: slices on each side that ``neighbour_keys`` get as further channels: for every channel a block
            ordered from ``-num_neighbours`` to ``+num_neighbours``, the outermost slice repeated.
        neighbour_keys: keys that get neighbours.
        foreground_key: volume that says which slices are of use; ``None`` takes all. In items it is uint8.
        min_foreground: voxels other than zero that a slice must have in it.
        slice_transform: random augmentation of items. It is seeded anew for each item from seed, epoch and index: the
            number of workers does not matter, and a resumed training sees what an uninterrupted one would.
        cache_dir: folder to keep prepared volumes in, shared by runs and processes; ``None`` or empty: a temporary
            folder, removed with the dataset.
        seed: seed of the augmentation.
        progress: show a bar while volumes are prepared.

    Raises:
        ManifestError: if there are no cases, ids or files are missing, or no slice has foreground.
        GeometryError: if the volumes of a case differ in shape.
        IntensityError: if a volume holds NaN or infinity after the transform.
        ConfigError: if keys do not exist or options do not fit each other.
        SynthError: if the transform fails on a case; the message names case, key and file.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], Mapping[Hashable, Any]],
        *,
        keys: Sequence[str] = ("condition", "target", "mask"),
        axis: int = 2,
        num_neighbours: int = 0,
        neighbour_keys: Sequence[str] = ("condition",),
        foreground_key: str | None = "mask",
        min_foreground: int = 1,
        slice_transform: Callable[[dict[str, Any]], Mapping[Hashable, Any]] | None = None,
        cache_dir: str | Path | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        if axis not in (0, 1, 2) or num_neighbours < 0 or (num_neighbours and not set(neighbour_keys) <= set(keys)):
            raise ConfigError(
                f"SliceDataset(axis={axis}, num_neighbours={num_neighbours}, neighbour_keys={list(neighbour_keys)}): "
                f"axis must be 0, 1 or 2, num_neighbours at least 0 and neighbour_keys among {list(keys)}."
            )
        if not data:
            raise ManifestError("SliceDataset got no case. Does the split or fold that was asked for exist?")
        for number, case in enumerate(data):
            if missing := {"case_id", "patient_id"} - set(case):
                raise ManifestError(f"Case number {number} has no {sorted(missing)}; use Manifest.cases().")
        self.keys = tuple(keys)
        self.num_neighbours = num_neighbours
        self.neighbour_keys = frozenset(neighbour_keys)
        self.slice_transform = slice_transform
        self.seed = seed
        self.case_ids = tuple(str(case["case_id"]) for case in data)
        self.patient_ids = tuple(str(case["patient_id"]) for case in data)
        self._temporary = None if cache_dir else _TemporaryFolder()
        directory = Path(self._temporary.path if self._temporary else str(cache_dir))
        cache = VolumeCache(directory, transform, keys=self.keys, axis=axis, foreground_key=foreground_key)
        self._cases = _collect(cache, data, progress=progress)
        self._case_of, self._slice_of = self._index(foreground_key, min_foreground)
        # Shared, so that persistent workers see a new epoch too.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def num_volumes(self) -> int:
        """Number of cases."""
        return len(self._cases)

    @property
    def num_slices(self) -> int:
        """Number of items: the slices with foreground."""
        return len(self._case_of)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations from now on, the same for the same epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Number of slices."""
        return self.num_slices

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read one slice.

        Returns:
            A tensor ``(C, H, W)`` for every key; ``case_id``, ``patient_id`` and ``slice_index`` as str, str and int.
        """
        index = range(len(self))[index]
        case, place = int(self._case_of[index]), int(self._slice_of[index])
        stored = self._cases[case]
        item: dict[str, Any] = {}
        for key in self.keys:
            around = self.num_neighbours if key in self.neighbour_keys else 0
            block = stored.files[key].read(neighbour_indices(place, stored.num_slices, around))
            # (2k + 1, C, H, W) to blocks of neighbours per channel.
            tensor = torch.from_numpy(block).transpose(0, 1)
            item[key] = tensor.reshape(-1, *tensor.shape[2:])
        if self.slice_transform is not None:
            if isinstance(self.slice_transform, Randomizable):
                entropy = np.random.SeedSequence([self.seed, int(self._epoch.item()), index])
                self.slice_transform.set_random_state(seed=int(entropy.generate_state(1)[0]))
            item = {str(key): _plain(value) for key, value in self.slice_transform(item).items()}
        return item | {"case_id": self.case_ids[case], "patient_id": self.patient_ids[case], "slice_index": place}

    def _index(self, foreground_key: str | None, min_foreground: int) -> tuple[np.ndarray, np.ndarray]:
        """List (case, slice) of the slices of use, as arrays: a million of them takes 8 MB."""
        places = [
            np.arange(case.num_slices) if case.foreground is None else np.flatnonzero(case.foreground >= min_foreground)
            for case in self._cases
        ]
        if not any(map(len, places)):
            named = ", ".join(self.case_ids[:5]) + (", …" if len(self.case_ids) > 5 else "")
            raise ManifestError(
                f"No slice of {len(self._cases)} case(s) ({named}) has {min_foreground} voxel(s) of {foreground_key!r} "
                "other than zero. Check that the masks are not empty, lower min_foreground, or set foreground_key=None."
            )
        cases = np.repeat(np.arange(len(places), dtype=np.int32), [len(place) for place in places])
        return cases, np.concatenate(places).astype(np.int32)


def _collect(cache: VolumeCache, data: Sequence[Mapping[str, Any]], *, progress: bool) -> list[StoredCase]:
    """Prepare all cases; ranks start at different ones, so that each finds most of them done by the others."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if is_distributed:
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    order = np.roll(np.arange(len(data)), -(rank * len(data) // max(world_size, 1))).tolist()
    if progress and rank == 0:
        tqdm, has_tqdm = optional_import("tqdm", name="tqdm")
        order = tqdm(order, desc="Preparing volumes", unit="case", disable=None) if has_tqdm else order
    stored: dict[int, StoredCase] = {}
    for number in order:
        stored[number] = cache.get(data[number])
    return [stored[number] for number in range(len(data))]


def _plain(value: Any) -> Any:
    """Drop metadata, which slicing and collating would carry along at ten times the price."""
    if isinstance(value, MetaTensor):
        return value.as_tensor()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


class _TemporaryFolder:
    """Folder that is removed with its last owner, by the process that made it only: workers get copies of the owner."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="monai_synth_slices_")
        weakref.finalize(self, _remove, self.path, os.getpid())

    def __deepcopy__(self, memo: dict[int, Any]) -> "_TemporaryFolder":
        return self


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)

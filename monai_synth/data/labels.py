"""What the ids of a label map mean, and which channel of the one-hot condition belongs to each of them.

Shapes: label maps of any shape, numpy arrays or tensors. Values: whole numbers of any type; floats that hold whole
numbers pass, because nibabel and MONAI load label maps as floats. Everything else is refused here, with the name of
the file, before a scatter on a GPU can only say "device-side assert triggered".
"""

import csv
import io
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from monai_synth.errors import ConfigError, LabelError

__all__ = ["LabelTable", "whole_numbers"]

Array = TypeVar("Array", np.ndarray, torch.Tensor)

# The scale factor in the header of a NIfTI file leaves rounding; `monai-synth manifest check` allows as much.
_TOLERANCE = 1e-3
_MAX_LISTED = 5
_MAX_ID = 2**62
_MAX_KNOWN = 12


@dataclass(frozen=True)
class LabelTable:
    """The names of all ids that a cohort's label maps may hold.

    The order of ``labels`` is the order of the channels, so that channels of published weights can be met.

    Args:
        labels: name of every id, ``{0: "background", 1: "brain", 5: "tumour"}`` or pairs of both. Ids may have gaps,
            and may be text, because JSON has no other keys.
        unknown_id: id of voxels of which nothing is known ("don't care", "void", often 255). Named in ``labels`` it has
            a channel at that place: the last one as in SPADE, or the first one as in OASIS, whose class balance then
            gives it no weight. Not named there, it has no channel: such voxels are zero in all of them, and an argmax
            over channels takes them for the first class.

    Attributes:
        ids: id of each channel.
        names: name of each channel.

    Raises:
        LabelError: if there is no label, an id is negative, not a whole number or twice there, or a name is empty or
            twice there.
    """

    labels: InitVar[Mapping[Any, str] | Sequence[tuple[Any, str]]]
    unknown_id: int | None = None
    ids: tuple[int, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self, labels: Mapping[Any, str] | Sequence[tuple[Any, str]]) -> None:
        """Check ids and names."""
        try:
            pairs = [(label, name) for label, name in (labels.items() if isinstance(labels, Mapping) else labels)]
        except (TypeError, ValueError) as error:
            raise LabelError(
                f"{labels!r} does not give each id a name, as {{0: 'background', 1: 'brain'}} does. "
                "Names alone, numbered from 0, go into LabelTable.from_names."
            ) from error
        if not pairs:
            raise LabelError("The label table is empty; name every id, as in {0: 'background', 1: 'brain'}.")
        object.__setattr__(self, "ids", tuple(_id(label) for label, _ in pairs))
        object.__setattr__(self, "names", tuple(_name(name, label) for label, name in pairs))
        if self.unknown_id is not None:
            object.__setattr__(self, "unknown_id", _id(self.unknown_id))
        for what, values in (("id", self.ids), ("name", self.names)):
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise LabelError(f"The label table has the {what} {twice[0]!r} several times; each must be there once.")

    @classmethod
    def from_names(cls, names: Sequence[str], *, unknown_id: int | None = None) -> "LabelTable":
        """Number the names from 0."""
        return cls(list(enumerate(names)), unknown_id)

    @classmethod
    def from_csv(cls, file: str | Path, *, unknown_id: int | None = None) -> "LabelTable":
        """Read the columns ``id`` and ``name``; the order of the rows is the order of the channels.

        Args:
            file: CSV in UTF-8 with a header, separated by commas, semicolons or tabs; other columns are passed over.
            unknown_id: as in the class.

        Raises:
            LabelError: if the file cannot be read, lacks a column, or does not hold a valid table.
        """
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise LabelError(f"{file} cannot be read as a label table: {error}. Name a CSV in UTF-8.") from error
        header = next(iter(text.splitlines()), "")
        for separator in ",;\t":
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
            if {"id", "name"} <= set(columns):
                break
        else:
            raise LabelError(f"{file} starts with {header[:80]!r}; a label table starts with the header 'id,name'.")
        rows = list(csv.reader(io.StringIO(text), delimiter=separator))[1:]
        at_id, at_name = columns.index("id"), columns.index("name")
        try:
            pairs = [(row[at_id], row[at_name].strip()) for row in rows if any(cell.strip() for cell in row)]
            return cls(pairs, unknown_id)
        except IndexError as error:
            raise LabelError(f"{file}: a row has no id or no name; each row needs both.") from error
        except LabelError as error:
            raise LabelError(f"{file}: {error}") from error

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> "LabelTable":
        """Undo :meth:`to_dict`.

        Raises:
            ConfigError: if the description has other keys, or not as many names as ids.
            LabelError: if it does not hold a valid table.
        """
        ids, names = description.get("ids", ()), description.get("names", ())
        if not {"ids", "names"} <= set(description) <= {"ids", "names", "unknown_id"} or len(ids) != len(names):
            raise ConfigError(
                f"A label table is described by 'ids' and as many 'names', and 'unknown_id' or not; "
                f"got {len(ids)} ids, {len(names)} names and the keys {sorted(map(str, description))}."
            )
        return cls(list(zip(ids, names, strict=True)), description.get("unknown_id"))

    @classmethod
    def of(cls, table: "LabelTable | Mapping[Any, Any] | Sequence[str] | int | str | Path") -> "LabelTable":
        """Make a table of what a configuration holds.

        Args:
            table: a table; ``{id: name}``; what :meth:`to_dict` gives; names, numbered from 0; a number of classes; or
                the path of a CSV.

        Raises:
            ConfigError: if it is none of these.
            LabelError: if it does not hold a valid table.
        """
        if isinstance(table, LabelTable):
            return table
        if isinstance(table, Mapping):
            return cls.from_dict(table) if "ids" in table else cls(table)
        if isinstance(table, str | Path):
            return cls.from_csv(table)
        if isinstance(table, Sequence):
            return cls.from_names(table)
        if isinstance(table, int) and not isinstance(table, bool):
            return cls.from_names([f"class {k}" for k in range(table)])
        raise ConfigError(
            f"{table!r} is no label table; give a LabelTable, {{id: name}}, a list of names, a number or a CSV."
        )

    def to_dict(self) -> dict[str, Any]:
        """Describe the table in JSON types: ``{"ids": [0, 1], "names": ["background", "brain"], "unknown_id": None}``.

        Lists, because whoever sorts the keys of a JSON file would otherwise change the order of the channels.
        """
        return {"ids": list(self.ids), "names": list(self.names), "unknown_id": self.unknown_id}

    @property
    def num_classes(self) -> int:
        """Number of channels."""
        return len(self.ids)

    @property
    def unknown_channel(self) -> int | None:
        """Channel of ``unknown_id``; ``None`` where there is none."""
        return self.ids.index(self.unknown_id) if self.unknown_id in self.ids else None

    def channel(self, label: int) -> int:
        """Channel of an id.

        Raises:
            LabelError: if the id has none.
        """
        if label not in self.ids:
            raise LabelError(f"Id {label!r} has no channel; the label table knows {self._known()}.")
        return self.ids.index(label)

    def check(self, labels: np.ndarray | Tensor, *, source: str | Path | None = None) -> None:
        """Refuse a label map with anything that the table does not name.

        Args:
            labels: any shape and type.
            source: file that it came from, for the message.

        Raises:
            LabelError: as :meth:`to_channels`.
        """
        self._channels(labels, source)

    def to_channels(self, labels: Array, *, source: str | Path | None = None) -> Array:
        """Replace each id by its channel.

        Args:
            labels: any shape and type.
            source: file that it came from, for the message.

        Returns:
            int64 of the same shape; -1 where ``unknown_id`` has no channel.

        Raises:
            LabelError: if a value is not a whole number or not in the table; the message counts the voxels.
        """
        channels = self._channels(labels, source)
        return channels if isinstance(labels, Tensor) else channels.numpy()

    def to_ids(self, channels: Array) -> Array:
        """Undo :meth:`to_channels`; the result is int64.

        Raises:
            LabelError: if a channel does not exist, or is -1 without an ``unknown_id`` to put there.
        """
        index = whole_numbers(channels)
        if int(index.min()) < (-1 if self.unknown_id is not None else 0) or int(index.max()) >= self.num_classes:
            raise LabelError(
                f"Channels from {int(index.min())} to {int(index.max())} do not fit a table of {self.num_classes} "
                f"classes{' without unknown_id' if self.unknown_id is None else ''}; give channels that it made."
            )
        # -1 takes the last entry.
        ids = torch.tensor([*self.ids, -1 if self.unknown_id is None else self.unknown_id], device=index.device)[index]
        return ids if isinstance(channels, Tensor) else ids.numpy()

    def _channels(self, labels: np.ndarray | Tensor, source: str | Path | None) -> Tensor:
        values = whole_numbers(labels, source=source)
        channel_of = {label: channel for channel, label in enumerate(self.ids)}
        if self.unknown_id is not None:
            channel_of.setdefault(self.unknown_id, -1)
        # A search instead of a table that is indexed by id: no id is too large, and none can be out of bounds.
        ids = torch.tensor(sorted(channel_of), device=values.device)
        place = torch.searchsorted(ids, values).clamp_(max=len(ids) - 1)
        is_known = ids[place] == values
        if not bool(is_known.all()):
            raise LabelError(self._complaint(values[~is_known], tuple(values.shape), source))
        return torch.tensor([channel_of[label] for label in ids.tolist()], device=values.device)[place]

    def _complaint(self, strange: Tensor, shape: tuple[int, ...], source: str | Path | None) -> str:
        values, counts = (each.tolist() for each in torch.unique(strange, return_counts=True))
        most = sorted(zip(counts, values, strict=True), key=lambda pair: (-pair[0], pair[1]))[:_MAX_LISTED]
        listed = ", ".join(f"{value} ({count} voxel{'s' * (count > 1)})" for count, value in most)
        rest = f" and {len(values) - len(most)} more" if len(values) > len(most) else ""
        return (
            f"{source or 'The label map'}: {listed}{rest} not in the label table, which knows {self._known()}. "
            f"{_suspicion(values, shape, source)} Otherwise name these ids in the table (in a bundle --labels), "
            "map them to known ones, or declare one as unknown_id, which teaches nothing."
        )

    def _known(self) -> str:
        if self.num_classes > _MAX_KNOWN:
            known = f"{self.num_classes} ids from {min(self.ids)} to {max(self.ids)}"
        else:
            known = ", ".join(f"{label} {name}" for label, name in zip(self.ids, self.names, strict=True))
        has_hidden = self.unknown_id is not None and self.unknown_id not in self.ids
        return f"{known}, {self.unknown_id} unknown" if has_hidden else known


def whole_numbers(labels: np.ndarray | Tensor, *, source: str | Path | None = None) -> Tensor:
    """Give a map of ids as a plain int64 tensor, on its device.

    Args:
        labels: any shape; integers, booleans, or floats that hold whole numbers up to a deviation of 0.001.
        source: file that it came from, for the message.

    Raises:
        LabelError: if there are no voxels, or values that are colours, NaN, infinite or not whole, or whole but too
            large for their type of float to tell neighbours apart.
    """
    name = source or "The label map"
    values = labels.detach().as_subclass(Tensor) if isinstance(labels, Tensor) else _native(np.asarray(labels), name)
    if values.numel() == 0:
        raise LabelError(f"{name}: no voxels (shape {tuple(values.shape)}). Export it again.")
    if values.is_complex():
        raise LabelError(f"{name}: complex numbers cannot be ids. Save one whole number per voxel.")
    if not values.is_floating_point():
        return values.long()
    whole = values.round()
    is_wrong = ~((values - whole).abs() <= _TOLERANCE)  # NaN and infinity too
    if bool(is_wrong.any()):
        wrong = values[is_wrong]
        raise LabelError(
            f"{name}: {wrong.numel()} of {values.numel()} values are not whole numbers (first: {wrong[0].item():g}). "
            "Label maps hold ids: resample the original with nearest neighbour, save it as NIfTI or PNG, not as JPEG."
        )
    limit = 2 / torch.finfo(values.dtype).eps
    if (largest := float(whole.abs().max())) >= limit:
        raise LabelError(
            f"{name}: id {largest:.0f} in {str(values.dtype).removeprefix('torch.')}, which cannot tell whole numbers "
            f"from {limit:.0f} on apart. Load it as integers: LoadImaged(..., dtype=np.int64)."
        )
    return whole.long()


def _suspicion(strange: list[int], shape: tuple[int, ...], source: str | Path | None) -> str:
    """Guess what happened to a label map."""
    if len(shape) > 2 and (shape[0] in (3, 4) or shape[-1] in (3, 4)):
        return f"Its shape {shape} may be that of a colour picture: save one id per voxel, in one channel."
    if min(strange) < 0:
        return "Ids are never negative: is it an image instead of a label map?"
    if re.search(r"\.jpe?g\b", str(source), re.IGNORECASE):
        return "JPEG changes values: make the label map again and save it as PNG."
    if strange == [255]:
        return "In many masks 255 stands for 1: name it in the table, as in {'0': 'background', '255': 'lesion'}."
    return "If the map was resampled, do so with nearest neighbour."


def _native(array: np.ndarray, name: str | Path) -> Tensor:
    """Make a tensor of any numeric array: unsigned, of the other byte order, flipped or read-only."""
    if array.dtype.kind not in "biuf":
        kind = "colours" if array.dtype.names else f"of type {array.dtype}"
        raise LabelError(f"{name}: voxels are {kind}, not ids. Save one whole number per voxel, in one channel.")
    if array.dtype.kind != "f":
        return torch.from_numpy(array.astype(np.int64, order="C"))
    dtype = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(np.float64)
    return torch.from_numpy(array.astype(dtype, order="C"))


def _id(label: Any) -> int:
    try:
        value = int(label) if isinstance(label, str) else operator.index(label)
    except (TypeError, ValueError) as error:
        raise LabelError(f"Id {label!r} in the label table is not a whole number; ids are 0, 1, 2, ...") from error
    if value < 0 or isinstance(label, bool):
        raise LabelError(f"Id {label!r} in the label table: ids are whole numbers from 0 (background) on.")
    if value > _MAX_ID:
        raise LabelError(f"Id {label!r} in the label table is larger than any image can hold ({_MAX_ID}).")
    return value


def _name(name: Any, label: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise LabelError(f"Id {label!r} has the name {name!r} in the label table; give it a name in words.")
    return name

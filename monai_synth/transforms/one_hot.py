"""Label maps to one-hot channels and back, and their check, through a table that names every id.

Shapes: ``(1, *spatial)`` ids, ``(num_classes, *spatial)`` channels.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_synth.data.labels import LabelTable
from monai_synth.errors import ConfigError, LabelError

__all__ = ["CheckLabelsd", "LabelsFromOneHotd", "OneHotd", "read_label_map"]

AnyTable = LabelTable | Mapping[Any, Any] | Sequence[str] | int | str | Path


class CheckLabelsd(MapTransform):
    """Refuse label maps with ids that the table does not name; the data stay as they are.

    For the volumes of a :class:`monai_synth.data.SliceDataset` whose slices go through :class:`OneHotd`: the cache then
    keeps ids instead of one channel for each class, and a bad file is found before the training starts, with its name.

    Args:
        keys: label maps ``(1, *spatial)``.
        table: as in :class:`OneHotd`.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: if ``table`` is no label table.
        LabelError: if the table breaks its rules.
    """

    def __init__(self, keys: KeysCollection, table: AnyTable, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.table = LabelTable.of(table)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the label maps.

        Raises:
            LabelError: as :class:`OneHotd`.
        """
        for key in self.key_iterator(dict(data)):
            labels, source = read_label_map(data[key], key)
            self.table.check(labels, source=source)
        return dict(data)


class OneHotd(MapTransform):
    """Give every class of a label map its channel: 1 where it is, 0 elsewhere.

    MONAI's ``AsDiscreted(to_onehot=n)`` is not enough: it knows no table, so ids must be 0 to n - 1; it cuts 1.5 down
    to class 1; and an id that is too large ends in an index error that names no file, on a GPU in a failed assertion.

    Pad before it: voxels that are padded with zeros afterwards belong to no class. MONAI's ``Invertd`` passes over it,
    as it must where it brings a synthetic *image* back to the grid of the label map; :class:`LabelsFromOneHotd` is
    called by name.

    Args:
        keys: label maps ``(1, *spatial)``.
        table: the ids: a :class:`LabelTable`, ``{id: name}``, names, a number of classes, or the path of a CSV.
        dtype: type of the result.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: if ``table`` is none of these.
        LabelError: if the table breaks its rules.
    """

    def __init__(
        self,
        keys: KeysCollection,
        table: AnyTable,
        dtype: torch.dtype = torch.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.table = LabelTable.of(table)
        self.dtype = dtype

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Encode the label maps.

        Raises:
            LabelError: if a map does not have one channel, or holds what the table does not name; the message names
                key, file, ids and the number of voxels.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            labels, source = read_label_map(out[key], key)
            channels = torch.as_tensor(self.table.to_channels(labels, source=source))
            one_hot = torch.zeros(self.table.num_classes, *channels.shape[1:], dtype=self.dtype, device=channels.device)
            one_hot.scatter_(0, channels.clamp_min(0), (channels >= 0).to(self.dtype))
            out[key] = like(one_hot, out[key])
        return out


class LabelsFromOneHotd(MapTransform):
    """Give every voxel the id of its strongest channel.

    Args:
        keys: one-hot channels, probabilities or logits ``(num_classes, *spatial)``.
        table: as in :class:`OneHotd`.
        dtype: type of the result, an integer type that is large enough for the ids.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: if ``table`` is no label table, or ``dtype`` cannot hold its ids.
        LabelError: if the table breaks its rules.
    """

    def __init__(
        self,
        keys: KeysCollection,
        table: AnyTable,
        dtype: torch.dtype = torch.int32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.table = LabelTable.of(table)
        self.dtype = dtype
        if dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
            raise ConfigError(f"dtype={dtype}: label maps are whole numbers; choose torch.uint8, int16 or int32.")
        largest = max(*self.table.ids, self.table.unknown_id or 0)
        if largest > torch.iinfo(dtype).max:
            raise ConfigError(
                f"dtype={dtype} ends at {torch.iinfo(dtype).max}, but the label table has the id {largest}. Choose a "
                "larger type."
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Decode the channels; voxels that are zero in all of them become ``unknown_id``.

        Raises:
            LabelError: if the number of channels is not that of the table, or voxels have no class and the table has no
                ``unknown_id`` without a channel.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            scores = torch.as_tensor(out[key]).as_subclass(Tensor)
            if scores.shape[0] != self.table.num_classes:
                raise LabelError(
                    f"{key!r} has {scores.shape[0]} channels (shape {tuple(scores.shape)}), the label table "
                    f"{self.table.num_classes} classes. Use the table that it was made with."
                )
            if scores.is_floating_point() and bool(scores.isnan().any()):
                raise LabelError(f"{key!r} holds NaN: there is no strongest channel. Look at what made it.")
            channels = scores.argmax(dim=0, keepdim=True)
            is_empty = (scores == 0).all(dim=0, keepdim=True)
            if bool(is_empty.any()):
                if self.table.unknown_id is None or self.table.unknown_channel is not None:
                    raise LabelError(
                        f"{key!r}: {int(is_empty.sum())} of {is_empty.numel()} voxels are zero in all channels: they "
                        "have no class. Pad before OneHotd, or give the table an unknown_id that it does not name."
                    )
                channels[is_empty] = -1
            out[key] = like(self.table.to_ids(channels).to(self.dtype), out[key])
        return out


def read_label_map(image: Any, key: Hashable) -> tuple[Any, str]:
    """Give a label map of a case without its metadata, and its name for messages.

    Raises:
        LabelError: if it does not have exactly one channel in front.
    """
    file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    source = f"{os.fspath(file)} ({key!r})" if isinstance(file, str | os.PathLike) else repr(key)
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) < 2 or shape[0] != 1:
        raise LabelError(
            f"{source}: shape {shape}, but a label map has one channel in front, (1, *spatial). Without that axis: put "
            "EnsureChannelFirstd before. A colour picture: replace each colour by its id. One-hot already: leave it so."
        )
    return (image.as_tensor() if isinstance(image, MetaTensor) else image), source


def like(result: Tensor, image: Any) -> Tensor:
    """Give ``result`` the affine and all other metadata of ``image``, where it has them."""
    return MetaTensor(result).copy_meta_from(image) if isinstance(image, MetaTensor) else result

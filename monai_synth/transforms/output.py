"""What a synthetic image needs before it is written to disk."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.image_writer import NibabelWriter
from monai.transforms import MapTransform


class RoundToIntegerd(MapTransform):
    """Round to the nearest integer; ``SaveImaged`` with an integer type would cut decimals off, up to 1 HU of bias.

    Args:
        keys: images of any shape.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Round each image."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = torch.round(out[key])
        return out


class NameByCased(MapTransform):
    """Let ``SaveImaged`` name a file after its case, not after its source.

    Cohorts call every file ``mr.nii.gz`` in a folder of its own: named after the source, all results would overwrite
    each other. Images without a case id keep their name.

    Args:
        keys: MetaTensors.
        name_key: key of the id.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(self, keys: KeysCollection, name_key: str = "case_id", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.name_key = name_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the id into the metadata of each image."""
        out = dict(data)
        name = out.get(self.name_key)
        for key in self.key_iterator(out):
            if isinstance(name, str) and isinstance(out[key], MetaTensor):
                out[key].meta["filename_or_obj"] = f"{name}.nii.gz"
        return out


class VolumeWriter(NibabelWriter):
    """For ``SaveImaged``: a volume stays a volume; MONAI's writer drops an axis with one voxel at the end."""

    def set_data_array(self, data_array: Any, channel_dim: Any = 0, *args: Any, **kwargs: Any) -> None:
        """Take ``(C, X, Y, Z)``; one channel is written as ``(X, Y, Z)``, several as ``(X, Y, Z, C)``."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, spatial_ndim=3)
        written = vars(self)["data_obj"]
        self.data_obj = written[..., 0] if written.shape[-1] == 1 else written

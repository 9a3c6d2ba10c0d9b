"""What a synthetic image needs before it is written to disk."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.image_writer import NibabelWriter
from monai.transforms import MapTransform

from monai_synth.errors import ConfigError, GeometryError, IntensityError

_MAX_GREY_LEVEL = {8: 255, 16: 65535}  # by bits


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


class ToGreyLevelsd(MapTransform):
    """Round images to grey levels that a picture holds without rescaling, 0 to 255; the last step before a PNG.

    ``SaveImaged(output_ext=".png", output_dtype=np.uint8, scale=None)`` cuts decimals off and wraps around what is
    outside (256 becomes 0), and says nothing. With integers from 0 to 255 it writes just these, X as the width.

    Args:
        keys: images ``(1, X, Y)`` (grey) or ``(3, X, Y)`` (red, green, blue) in grey levels; they stay floats, so that
            metrics can subtract them.
        bits: 8, or 16 for grey levels up to 65535, with ``output_dtype=np.uint16``; colours have 8.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: if ``bits`` is neither.
    """

    def __init__(self, keys: KeysCollection, bits: int = 8, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if bits not in _MAX_GREY_LEVEL:
            raise ConfigError(f"ToGreyLevelsd(bits={bits}): a picture has 8 or 16 bits a channel.")
        self.bits = bits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Round each image.

        Raises:
            GeometryError: if an image is no picture with one or three channels.
            IntensityError: if a value is not finite, or would be outside 0 to 255 (65535 with 16 bits).
        """
        out = dict(data)
        highest = _MAX_GREY_LEVEL[self.bits]
        for key in self.key_iterator(out):
            image = out[key]
            if image.ndim != 3 or image.shape[0] not in ((1, 3) if self.bits == 8 else (1,)):
                raise GeometryError(
                    f"{key!r} has the shape {tuple(image.shape)}; a picture is (1, X, Y) in grey or, with 8 bits, "
                    "(3, X, Y) in colour. Write volumes as NIfTI, with VolumeWriter."
                )
            low, high = float(image.min()), float(image.max())
            if not (torch.isfinite(image).all() and round(low) >= 0 and round(high) <= highest):
                raise IntensityError(
                    f"{key!r} has values from {low:g} to {high:g}; a picture of {self.bits} bits holds finite grey "
                    f"levels from 0 to {highest}. Map the network's output back first (ToPhysicald with "
                    f"Window(low=0, high={highest}, unit='grey levels'))."
                )
            out[key] = torch.round(image)
        return out


class NameByCased(MapTransform):
    """Let ``SaveImaged`` name a file after its case, not after its source.

    Cohorts call every file ``mr.nii.gz`` in a folder of its own: named after the source, all results would overwrite
    each other. Images without a case id keep their name. The ending is that of ``SaveImaged``.

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

"""Dictionary transforms between physical units and the range [-1, 1] of a network.

Shapes: ``(C, *spatial)``. MONAI's ``Invertd`` passes over intensities, so ``ToPhysicald`` is called by name, before it.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_synth.data.intensity import Intensity, Window
from monai_synth.errors import ConfigError, IntensityError

__all__ = ["ToNetworkRanged", "ToPhysicald"]

_META_KEYS = ("intensity_low", "intensity_high", "intensity_unit")


class ToNetworkRanged(MapTransform):
    """Fit the intensity to each image, map it to ``[-1, 1]``, and remember the window in the metadata.

    Call it on the native grid, before padding or resampling brings in values that the scanner never measured. The
    fitted window is kept under ``intensity_low``, ``intensity_high`` and ``intensity_unit``.

    Args:
        keys: images ``(C, *spatial)`` in physical units.
        intensity: a window, or what is fitted to become one.
        mask_key: voxels to fit to, ``(1, *spatial)``, non-zero inside; ``None`` fits to all.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        intensity: Intensity,
        mask_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.intensity = intensity
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the images.

        Raises:
            IntensityError: if an image cannot be fitted or holds NaN or infinity; the message names the key.
            ConfigError: if there is no mask under ``mask_key``.
        """
        out = dict(data)
        mask = None
        if self.mask_key is not None and not isinstance(self.intensity, Window):
            if self.mask_key not in out:
                raise ConfigError(
                    f"ToNetworkRanged fits {self.intensity} inside mask_key={self.mask_key!r}, but the case has only "
                    f"{sorted(map(str, out))}. Load the mask or make it with BodyMaskd first, or set mask_key=None."
                )
            mask = torch.as_tensor(out[self.mask_key]).as_subclass(torch.Tensor)
        for key in self.key_iterator(out):
            image = torch.as_tensor(out[key])
            try:
                window = self.intensity.fit(image.as_subclass(torch.Tensor), mask)
                mapped = window.to_network(image)
            except IntensityError as error:
                raise IntensityError(f"{key!r}: {error}") from error
            if isinstance(mapped, MetaTensor):
                mapped.meta = {
                    **mapped.meta,
                    **dict(zip(_META_KEYS, (window.low, window.high, window.unit), strict=True)),
                }
            out[key] = mapped
        return out


class ToPhysicald(MapTransform):
    """Map images from ``[-1, 1]`` back to physical units.

    Args:
        keys: images ``(C, *spatial)`` in network range.
        intensity: the intensity of that role. A window is used as it is, HU for CT; of a fitted intensity the window is
            read from the metadata that :class:`ToNetworkRanged` left.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        intensity: Intensity,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.intensity = intensity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the images.

        Raises:
            IntensityError: if the intensity was fitted and the image does not carry the window.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            image = torch.as_tensor(out[key])
            physical = self._window(image, key).to_physical(image)
            if isinstance(physical, MetaTensor):
                physical.meta = {name: value for name, value in physical.meta.items() if name not in _META_KEYS}
            out[key] = physical
        return out

    def _window(self, image: torch.Tensor, key: Hashable) -> Window:
        if isinstance(self.intensity, Window):
            return self.intensity
        meta = image.meta if isinstance(image, MetaTensor) else {}
        if not all(name in meta for name in _META_KEYS):
            raise IntensityError(
                f"{key!r} does not carry the window that {self.intensity} was fitted to. Map it with ToNetworkRanged "
                "and keep its metadata, or give a fixed Window."
            )
        low, high, unit = (meta[name] for name in _META_KEYS)
        return Window(float(low), float(high), str(unit))

"""Texture of the single axial slices of few volumes, where :class:`TextureDistance` has too few to tell a distance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.metrics.case_table import Item, float_array
from monai_synth.metrics.distribution import TextureDistance
from monai_synth.metrics.texture import axial_axis

__all__ = ["SliceTextureDistance"]


class SliceTextureDistance(TextureDistance):
    """:class:`TextureDistance` that counts each axial slice of a volume as an image.

    A validation on one label map and one patient's images has a value at all this way, which tells a later epoch from
    an earlier one. It says little of other patients: slices of one patient resemble each other, and the number of
    patients, not of slices, is the ``n`` of the summary.

    Args:
        reference: items with ``target`` ``(C, X, Y)``, such as a ``SliceDataset``.
        mask_key: key of a mask ``(1, X, Y, Z)`` on the grid of the prediction; ``None`` takes all slices.
        min_foreground: voxels other than zero that a slice must have in the mask; give that of the reference.
        **options: see :class:`TextureDistance`; methods in ``extra_methods`` get items of one slice.

    Raises:
        ConfigError: as :class:`TextureDistance`.
    """

    def __init__(
        self, reference: Sequence[Any], *, mask_key: str | None = "mask", min_foreground: int = 1, **options: Any
    ) -> None:
        """Store what says which slices count."""
        self.mask_key = mask_key
        self.min_foreground = min_foreground
        super().__init__(reference, **options)

    def update(self, output: Sequence[Item] | Item) -> None:
        """Take volumes ``(C, X, Y, Z)`` in, slice by slice; images ``(C, X, Y)`` as they are.

        Raises:
            ConfigError: if an item lacks a key.
            GeometryError: if the mask is not on the grid of the prediction.
            IntensityError: if a prediction is not finite.
        """
        for item in (output,) if isinstance(output, Mapping) else output:
            super().update(self._slices(item))

    def describe(self) -> dict[str, Any]:
        """As :meth:`TextureDistance.describe`; ``num_images`` counts slices."""
        return {**super().describe(), "image": "axial slice", "min_foreground": self.min_foreground}

    def _slices(self, item: Item) -> list[dict[str, Any]]:
        """One item a slice, with every array of the prediction's grid cut alike."""
        prediction = self._get(item, self.pred_key)
        if np.ndim(prediction) != 4:
            return [dict(item)]
        axis, grid = axial_axis(prediction), tuple(prediction.shape[1:])
        axis = axis + 1 if axis >= 0 else axis
        volumes = {key: float_array(value) for key, value in item.items() if _is_on(value, grid)}
        places = np.arange(volumes[self.pred_key].shape[axis])
        if self.mask_key is not None:
            mask = self._get(item, self.mask_key)
            if self.mask_key not in volumes:
                raise GeometryError(
                    f"Case {item.get('case_id', '?')!r}: {self.mask_key!r} has shape {tuple(np.shape(mask))}, the "
                    f"prediction {tuple(prediction.shape)}: give the mask of the prediction's grid, or mask_key=None."
                )
            inside = np.moveaxis(volumes[self.mask_key], axis, 0) != 0
            places = np.flatnonzero(inside.reshape(len(inside), -1).sum(axis=1) >= self.min_foreground)
        if not len(places):
            raise ConfigError(
                f"Case {item.get('case_id', '?')!r}: no slice has min_foreground={self.min_foreground} voxels in "
                f"{self.mask_key!r}. Lower it."
            )
        return [
            {**item, **{key: volume.take(place, axis=axis) for key, volume in volumes.items()}}
            | {"case_id": f"{self._get(item, 'case_id')}, slice {place}"}
            for place in places
        ]


def _is_on(value: Any, grid: tuple[int, ...]) -> bool:
    return np.ndim(value) == 4 and tuple(value.shape[1:]) == grid

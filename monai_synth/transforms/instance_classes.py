"""Reference maps of cells: ids of instances become the classes background, interior and boundary.

Shapes: ``(1, *spatial)`` in 2D and 3D. Values: 0 where there is no cell, else a whole number for each cell.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from monai_synth.data.labels import whole_numbers
from monai_synth.errors import ConfigError, LabelError
from monai_synth.transforms.one_hot import like, read_label_map

__all__ = ["BACKGROUND", "BOUNDARY", "INTERIOR", "InstancesToClassesd", "instance_classes"]

BACKGROUND, INTERIOR, BOUNDARY = 0, 1, 2

Mode = Literal["inner", "thick"]

# The filters of scipy behind find_boundaries compute in float64, which cannot tell larger ids apart.
_MAX_EXACT = 2**53


def instance_classes(instances: NDArray[Any], *, boundary_width: int = 1, mode: Mode = "inner") -> NDArray[np.uint8]:
    """Tell interior and boundary of every cell apart.

    The boundary is found layer by layer with :func:`skimage.segmentation.find_boundaries`: the voxels of a cell with a
    neighbour of another cell or of the background, then those next to the ones found, and so on. Neighbours share a
    side, so a layer is one voxel thick along every axis. Beyond the field of view there are none: a cell that is cut by
    the image has no boundary at the cut.

    Args:
        instances: ids, two or three axes; 0 is background.
        boundary_width: layers in a cell, at least 1. A cell that is not thicker than twice this is boundary alone.
        mode: ``"inner"`` takes the boundary from the cells only, so that the outline stays where it was drawn;
            ``"thick"`` adds as many layers outside, from the background.

    Returns:
        0 background, 1 interior, 2 boundary, in the shape of ``instances``. Touching cells are always separated: each
        has its own layers.

    Raises:
        ConfigError: if the width is not a whole number from 1 on, or the mode is not known.
        LabelError: if an id is negative.
    """
    _check_options(boundary_width, mode)
    if instances.size and instances.min() < 0:
        raise LabelError(
            f"The lowest instance id is {instances.min()}; 0 is background and cells have numbers from 1 on. Is it an "
            "image instead of a map of instances?"
        )
    if instances.size and instances.max() > _MAX_EXACT:
        instances = np.unique(np.append(0, instances), return_inverse=True)[1][1:].reshape(instances.shape)
    cells = instances > 0
    classes = np.where(cells, INTERIOR, BACKGROUND).astype(np.uint8)
    rest = instances.copy()
    outside = ~cells
    for _ in range(boundary_width):
        layer = find_boundaries(rest, connectivity=1, mode="inner", background=0)
        classes[layer] = BOUNDARY
        rest[layer] = 0
        if mode == "thick":
            layer = find_boundaries(outside, connectivity=1, mode="inner", background=0)
            classes[layer] = BOUNDARY
            outside &= ~layer
    return classes


class InstancesToClassesd(MapTransform):
    """Turn maps of cells into maps of three classes: 0 background, 1 interior, 2 boundary; see `instance_classes`.

    Cells that touch are one blob in a mask; the boundary keeps them apart for a network that sees classes only.
    :class:`monai_synth.transforms.OneHotd` comes next: classes are never grey codes. Call it before cropping, since a
    cut is not a boundary, and on slices where the network sees slices: a cell of a volume has a top and a bottom too.
    A mask without numbers, 0 and 255, counts as one cell.

    Args:
        keys: maps ``(1, *spatial)`` of whole numbers.
        boundary_width: as for :func:`instance_classes`.
        mode: as for :func:`instance_classes`.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: as for :func:`instance_classes`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        boundary_width: int = 1,
        mode: Mode = "inner",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_options(boundary_width, mode)
        self.boundary_width = boundary_width
        self.mode: Mode = mode

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the classes; the result is uint8.

        Raises:
            LabelError: if a map does not have one channel, or holds values that are negative, not whole, or that its
                type cannot tell apart; the message names key and file.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            instances, source = read_label_map(out[key], key)
            ids = whole_numbers(instances, source=source)
            try:
                classes = instance_classes(ids[0].cpu().numpy(), boundary_width=self.boundary_width, mode=self.mode)
            except LabelError as error:
                raise LabelError(f"{source}: {error}") from error
            out[key] = like(torch.from_numpy(classes)[None].to(ids.device), out[key])
        return out


def _check_options(boundary_width: int, mode: str) -> None:
    if not isinstance(boundary_width, int) or isinstance(boundary_width, bool) or boundary_width < 1:
        raise ConfigError(f"boundary_width={boundary_width!r}: a whole number of voxels, 1 or more.")
    if mode not in ("inner", "thick"):
        raise ConfigError(f"mode={mode!r}: 'inner' (voxels of the cells) or 'thick' (also voxels around them).")

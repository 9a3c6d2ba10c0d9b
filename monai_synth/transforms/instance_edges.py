"""Edges between instances, the further channel of the condition in pix2pixHD and SPADE (Wang et al. 2018).

Shapes: ``(1, *spatial)``. Values: ids of instances, whole numbers of any type.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_synth.data.labels import whole_numbers
from monai_synth.errors import ConfigError
from monai_synth.transforms.one_hot import like, read_label_map

__all__ = ["InstanceEdgesd", "instance_edges"]


def instance_edges(instances: Tensor) -> Tensor:
    """Mark voxels with a neighbour of another instance, on both sides of the border.

    Args:
        instances: ``(1, *spatial)`` or ``(B, 1, *spatial)`` integers. Neighbours share a side: four in 2D, six in 3D;
            beyond the field of view there are none.

    Returns:
        Boolean, same shape.
    """
    edges = torch.zeros_like(instances, dtype=torch.bool)
    for axis in range(1, instances.ndim):
        length = instances.shape[axis] - 1
        differs = instances.narrow(axis, 0, length) != instances.narrow(axis, 1, length)
        edges.narrow(axis, 0, length).logical_or_(differs)
        edges.narrow(axis, 1, length).logical_or_(differs)
    return edges


class InstanceEdgesd(MapTransform):
    """Turn maps of instance ids into maps of their edges: 1 where a neighbour has another id, 0 elsewhere.

    Ids are compared as integers, so that neighbours as 70000001 and 70000002 differ. Load such maps as integers
    (``LoadImaged(..., dtype=np.int64)``): MONAI's default, float32, makes them equal, which is refused here. A network
    of slices wants edges in the plane: call it on slices, since a volume has neighbours above and below too.

    Args:
        keys: maps ``(1, *spatial)``.
        output_key: where to put the edges of a single key; ``None`` replaces the maps.
        dtype: type of the result.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        ConfigError: if there is one ``output_key`` for several keys.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_key: Hashable | None = None,
        dtype: torch.dtype = torch.float32,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if output_key is not None and len(self.keys) > 1:
            raise ConfigError(
                f"InstanceEdgesd(keys={list(self.keys)}, output_key={output_key!r}): the last would overwrite the "
                "others. Use one transform for each key."
            )
        self.output_key = output_key
        self.dtype = dtype

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Find the edges.

        Raises:
            LabelError: if a map does not have one channel, or holds values that are not whole numbers or that its type
                cannot tell apart; the message names key and file.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            instances, source = read_label_map(out[key], key)
            edges = instance_edges(whole_numbers(instances, source=source)).to(self.dtype)
            out[key if self.output_key is None else self.output_key] = like(edges, out[key])
        return out

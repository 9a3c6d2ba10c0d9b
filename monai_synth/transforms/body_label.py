"""A class for the body in label maps that name a lesion only, found in the image itself.

A map of the lesion alone says nothing of where the head is: a generator would have to invent that as well.
Shapes: label maps ``(1, *spatial)``, images ``(C, *spatial)``.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_synth.data.labels import whole_numbers
from monai_synth.errors import ConfigError, GeometryError, IntensityError, LabelError
from monai_synth.transforms.body_mask import body_mask, spacing_and_axis
from monai_synth.transforms.one_hot import like, read_label_map

__all__ = ["BodyLabeld", "RequireLabeld"]


class BodyLabeld(MapTransform):
    """Give voxels without a label that lie in the body, as the image shows it, a label of their own.

    :class:`monai_synth.transforms.BodyMaskd` finds the body channel by channel and refuses an image without one. Here
    it is found in the brightest channel of every voxel, because a channel may be empty or hold noise. An image without
    a body, as a slice beyond the top of the head, gets no such label; it is refused where it has other labels.

    Args:
        keys: label maps ``(1, *spatial)``; 0 is no label.
        image_key: image ``(C, *spatial)`` on the grid of the maps, all channels in one unit.
        label: id of the body.
        threshold: as for :func:`monai_synth.transforms.body_mask`.
        opening_mm: as for :func:`monai_synth.transforms.body_mask`.
        piece_mm: as for :func:`monai_synth.transforms.body_mask`.
        allow_missing_keys: skip keys that a case does not have.

    Spacing and axial direction come from the affine of the image; pictures have none, and a pixel then counts as 1 mm.

    Raises:
        ConfigError: if ``label`` is 0 or negative.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str,
        label: int,
        threshold: float | Literal["otsu"] = "otsu",
        opening_mm: float | None = None,
        piece_mm: float = 30.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if label < 1:
            raise ConfigError(f"BodyLabeld(label={label}): 0 is no label; choose 1 or more.")
        self.image_key = image_key
        self.label = label
        self.threshold: float | Literal["otsu"] = threshold
        self.opening_mm = opening_mm
        self.piece_mm = piece_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the label.

        Raises:
            ConfigError: if there is no image.
            GeometryError: if map and image differ in shape.
            IntensityError: if the image shows no body where there are labels.
            LabelError: if a map does not have one channel, does not hold whole numbers, or has the id of the body.
        """
        out = dict(data)
        if self.image_key not in out:
            raise ConfigError(f"BodyLabeld(image_key={self.image_key!r}): the case has only {sorted(map(str, out))}.")
        body, problem = self._body(out[self.image_key])
        for key in self.key_iterator(out):
            labels, source = read_label_map(out[key], key)
            ids = whole_numbers(labels, source=source)
            if ids.shape[1:] != body.shape:
                raise GeometryError(
                    f"{source}: shape {tuple(ids.shape[1:])}, but {self.image_key!r} has {tuple(body.shape)}. Both "
                    "must lie on one grid: add the body before resampling."
                )
            if bool((ids == self.label).any()):
                raise LabelError(
                    f"{source} has the id {self.label} already, which the body shall get: nothing could tell one from "
                    "the other. If it is a lesion, store it with another id, such as 255; if the body is drawn "
                    "already, leave BodyLabeld out (in a bundle --head_mask false, and name all ids with --labels)."
                )
            if problem is not None and bool((ids > 0).any()):
                raise IntensityError(f"{source} has labels, but {self.image_key!r} no body: {problem}") from problem
            inside = torch.from_numpy(body)[None].to(ids.device)
            out[key] = like(torch.where((ids == 0) & inside, self.label, ids), out[key])
        return out

    def _body(self, image: Any) -> tuple[np.ndarray, IntensityError | None]:
        """Find the body, or say why there is none."""
        volume = torch.as_tensor(image).detach().cpu().as_subclass(torch.Tensor).numpy().max(axis=0)
        spacing_mm, axial_axis = spacing_and_axis(torch.as_tensor(image))
        try:
            body = body_mask(
                volume,
                spacing_mm,
                threshold=self.threshold,
                axial_axis=axial_axis,
                opening_mm=self.opening_mm,
                piece_mm=self.piece_mm,
            )
        except IntensityError as error:
            return np.zeros(volume.shape, dtype=bool), error
        return body, None


class RequireLabeld(MapTransform):
    """Refuse label maps that have labels but not the one without which the others mean nothing.

    For inference with a network that was trained with :class:`BodyLabeld`: a tumour without a head is not what it
    knows, and the image would say so to nobody.

    Args:
        keys: label maps ``(1, *spatial)``.
        label: id that must be there where any other id but 0 is.
        name: what it is called, for the message.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(self, keys: KeysCollection, label: int, name: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label = label
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the label maps; the data stay as they are.

        Raises:
            LabelError: if a map has labels but not this one.
        """
        for key in self.key_iterator(dict(data)):
            labels, source = read_label_map(data[key], key)
            ids = whole_numbers(labels, source=source)
            if bool((ids > 0).any()) and not bool((ids == self.label).any()):
                found = ", ".join(str(value) for value in torch.unique(ids).tolist())
                raise LabelError(
                    f"{source}: the ids {found}, but no {self.label} ({self.name}): the network was trained with maps "
                    f"that say where the {self.name} is. Add it, from an image with BodyLabeld or by hand."
                )
        return dict(data)

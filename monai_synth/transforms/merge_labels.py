"""Label maps of several protocols in one language: many ids become few classes.

Shapes: ``(1, *spatial)`` ids in, ``(1, *spatial)`` classes out.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_synth.data.labels import LabelTable, whole_numbers
from monai_synth.errors import LabelError
from monai_synth.transforms.one_hot import like, read_label_map

__all__ = ["MergeLabelsd"]

_MAX_LISTED = 5
_MAX_CLASSES = 2**15


class MergeLabelsd(MapTransform):
    """Replace every id by the number of the class that holds it.

    MONAI's ``MapLabelValued`` leaves ids that it does not know as they are, where they look like classes; here they are
    refused, or sent to a class on purpose.

    Args:
        keys: label maps ``(1, *spatial)``.
        classes: ids of every class, in the order of the classes, which are numbered from 0:
            ``{"background": [0, 24], "white matter": [2, 41]}``. A class may be empty where only ``unknown`` fills it.
        unknown: class of all ids that are not listed; ``None`` refuses them.
        allow_missing_keys: skip keys that a case does not have.

    Raises:
        LabelError: if there is no class, an id is in two classes or is no whole number from 0 on, or ``unknown`` is not
            one of the classes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Mapping[str, Sequence[int]],
        unknown: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not isinstance(classes, Mapping) or any(
            isinstance(ids, str) or not isinstance(ids, Sequence) for ids in classes.values()
        ):
            raise LabelError(
                f"{classes!r} does not give each class its ids, as {{'background': [0], 'white matter': [2, 41]}} does."
            )
        if len(classes) > _MAX_CLASSES:
            raise LabelError(f"{len(classes)} classes are more than {_MAX_CLASSES}. Merge more ids into one class.")
        if unknown is not None and unknown not in classes:
            raise LabelError(f"unknown={unknown!r} is not one of the classes {', '.join(classes)}. Name one of them.")
        self.classes = {name: tuple(ids) for name, ids in classes.items()}
        self.unknown = unknown
        names = list(classes)
        LabelTable.from_names(names)  # refuses names that are empty, and no class at all
        class_of: dict[int, int] = {}
        for number, ids in enumerate(self.classes.values()):
            for label in LabelTable([(label, f"id {label}") for label in ids]).ids if ids else ():
                if label in class_of:
                    raise LabelError(
                        f"Id {label} is in the classes {names[class_of[label]]!r} and {names[number]!r}; give it one."
                    )
                class_of[label] = number
        if not class_of:
            raise LabelError(f"None of the classes {', '.join(names)} has an id; give the background 0 at least.")
        self._ids = sorted(class_of)
        self._numbers = [class_of[label] for label in self._ids]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Merge the ids; the result is int16.

        Raises:
            LabelError: if a map does not have one channel, holds no whole numbers, or ids of no class; the message
                names key, file, ids and the number of voxels.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            labels, source = read_label_map(out[key], key)
            values = whole_numbers(labels, source=source)
            ids = torch.tensor(self._ids, device=values.device)
            place = torch.searchsorted(ids, values).clamp_(max=len(ids) - 1)
            is_known = ids[place] == values
            numbers = torch.tensor(self._numbers, dtype=torch.int16, device=values.device)[place]
            if not bool(is_known.all()):
                if self.unknown is None:
                    raise LabelError(self._complaint(values[~is_known], source))
                numbers[~is_known] = list(self.classes).index(self.unknown)
            out[key] = like(numbers, out[key])
        return out

    def _complaint(self, strange: torch.Tensor, source: str) -> str:
        values, counts = (each.tolist() for each in torch.unique(strange, return_counts=True))
        most = sorted(zip(counts, values, strict=True), key=lambda pair: (-pair[0], pair[1]))[:_MAX_LISTED]
        listed = ", ".join(f"{value} ({count} voxel{'s' * (count > 1)})" for count, value in most)
        rest = f" and {len(values) - len(most)} more" if len(values) > len(most) else ""
        return (
            f"{source}: {listed}{rest} in none of the classes {', '.join(self.classes)}. Add the ids to a class, or "
            "name the class that takes all others as unknown."
        )

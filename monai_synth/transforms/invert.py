"""Back to the grid of the label map, for images that a network drew on another one.

Shapes: ``(C, *spatial)``, MetaTensors.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.transforms.inverse import InvertibleTransform

from monai_synth.errors import ConfigError

__all__ = ["InvertSmoothlyd"]

# What resampling by nearest neighbour is called in a trace: torch's two kinds, and the spline of order 0.
_LINEAR_INSTEAD: dict[Any, Any] = {"nearest": "bilinear", "nearest-exact": "bilinear", 0: 1}


class InvertSmoothlyd(Invertd):
    """MONAI's ``Invertd`` for images drawn from label maps: resampled linearly although the map was not.

    ``Invertd(nearest_interp=False)`` goes back by the interpolation of the way there. For a label map that is nearest
    neighbour, which would cut the synthetic image into blocks. Other interpolations stay what they were, as do steps
    that resample nothing: axes that were swapped, margins that were cut off. In 3D linear means trilinear. Nothing is
    smoothed beforehand: an image that comes back smaller by more than a factor of 2 loses detail unevenly.

    Args:
        keys: images to bring back.
        transform: what ``orig_keys`` went through, usually the ``Compose`` of the preprocessing.
        orig_keys: label maps that the images were drawn from, one for each key or one for all; one-hot they carry the
            same trace.
        allow_missing_keys: skip keys that a case does not have.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        orig_keys: KeysCollection,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, transform, orig_keys, nearest_interp=False, allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring the images back; the label maps and all else stay as they are.

        Raises:
            ConfigError: if a label map is missing or carries no trace of what it went through.
        """
        traced = dict(data)
        for key, orig_key in self.key_iterator(dict(data), self.orig_keys):
            source = data.get(orig_key)
            if not isinstance(source, MetaTensor):
                raise ConfigError(
                    f"InvertSmoothlyd({key!r}): {orig_key!r} is {type(source).__name__}, not a MetaTensor, so that "
                    "nothing says which way it came. Name what the preprocessing transformed as orig_keys."
                )
            # MONAI's leaves an image that is no MetaTensor where it is, with a warning only.
            traced[key] = MetaTensor(data[key])
            traced[orig_key] = MetaTensor(
                source.as_tensor(), meta=source.meta, applied_operations=_linear(source.applied_operations)
            )
        inverted = super().__call__(traced)
        return {**data, **{key: inverted[key] for key in self.key_iterator(inverted)}}


def _linear(trace: Any) -> Any:
    """A trace in which nothing is resampled by nearest neighbour; the given one is not changed."""
    if isinstance(trace, Mapping):
        return {name: _mode(value) if name == "mode" else _linear(value) for name, value in trace.items()}
    return [_linear(step) for step in trace] if isinstance(trace, list | tuple) else trace


def _mode(mode: Any) -> Any:
    """One interpolation, or one for each step. Paddings are called modes too; they are left alone."""
    if isinstance(mode, Sequence) and not isinstance(mode, str):
        return [_mode(each) for each in mode]
    return _LINEAR_INSTEAD.get(mode, mode) if isinstance(mode, str | int) else mode

"""Pictures as grey levels or colours, without a value lost on the way.

``PIL.Image.convert("L")`` cuts 16-bit, 32-bit and floating-point pictures off at 255 and says nothing: of a micrograph
with 12 or 16 bits hardly more than a white rectangle is left.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from monai.data.image_reader import PILReader
from numpy.typing import NDArray
from PIL import Image

from monai_synth.data.intensity import Window
from monai_synth.errors import ConfigError, IntensityError

__all__ = ["PictureReader"]

Mode = Literal["L", "RGB"]
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")


class PictureReader(PILReader):
    """Read PNG, JPEG, TIFF and BMP as grey levels or as colours, for MONAI's ``LoadImaged(reader=...)``.

    Eight bits of any kind (grey, colours, palette, one bit; transparency is left out) become 0 to 255 in the mode asked
    for. Grey levels of 16 or 32 bits stay what they are.

    Args:
        mode: ``"L"`` gives ``(1, X, Y)``, ``"RGB"`` gives ``(3, X, Y)``.
        window: the intensity contract of the pictures; values outside, which it would clip, are refused. ``None`` lets
            all pass.

    Raises:
        ConfigError: if the mode is neither.
    """

    def __init__(self, mode: Mode = "RGB", window: Window | None = None) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"A picture cannot be read in mode {mode!r}: choose 'L' (grey) or 'RGB' (colours).")
        super().__init__()
        self.mode = mode
        self.window = window

    # What `read` raises, LoadImage replaces by "cannot find a suitable reader"; what is raised here arrives.
    def get_data(self, img: Image.Image | Sequence[Image.Image]) -> tuple[NDArray[Any], dict[Any, Any]]:
        """Convert what ``read`` opened.

        Raises:
            IntensityError: if values would be lost; the message names the file, the value and the way out.
        """
        pictures = img if isinstance(img, Sequence) else [img]
        found: tuple[NDArray[Any], dict[Any, Any]] = super().get_data([self._convert(each) for each in pictures])
        return found

    def _convert(self, picture: Image.Image) -> Image.Image:
        name = getattr(picture, "filename", None) or "The picture"
        if picture.mode in _EIGHT_BITS:
            if any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())):
                raise IntensityError(
                    f"{name} has 16 bits in each of several channels, of which Pillow keeps the upper 8. Save it with "
                    "8 bits a channel, or as grey levels of 16 bits."
                )
            picture = picture.convert(self.mode)
        elif not picture.mode.startswith(("I", "F")):
            raise IntensityError(f"{name} is stored as {picture.mode!r}. Save it as grey levels or as colours (RGB).")
        elif self.mode == "RGB":
            raise IntensityError(
                f"{name} has one channel of more than 8 bits ({picture.mode!r}), but colours are three of 8 bits. Save "
                "it with 8 bits, or train on grey levels where the bundle can (--image_mode L)."
            )
        self._check(picture, name)
        return picture

    def _check(self, picture: Image.Image, name: str) -> None:
        """Refuse what the window would clip, and decimals, which no written picture will have."""
        if self.window is None:
            return
        values = np.asarray(picture)
        low, high = float(values.min()), float(values.max())
        if not (self.window.low <= low and high <= self.window.high):
            raise IntensityError(
                f"{name} has values from {low:g} to {high:g}, but the window of the pictures is {self.window.low:g} to "
                f"{self.window.high:g} {self.window.unit}: what lies outside would be cut off. Give the range of all "
                "your pictures, the same in training, evaluation and inference, as in --intensity#target#high 65535 "
                "for 16 bits, or save them with 8 bits."
            )
        if picture.mode == "F" and not np.array_equal(values, np.rint(values)):
            raise IntensityError(
                f"{name} has decimals ({low:g} to {high:g}); {self.window.unit} are whole numbers. Scale it to 0 to "
                f"{self.window.high:g} and save it as integers."
            )

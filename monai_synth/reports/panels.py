"""Single pictures as small PNG files in data URIs: grey images, error maps, label maps and their colour bars."""

import base64
import io

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 384
MIN_PIXELS = 224
_LEVELS = 253  # odd: index 126 is exactly zero
_NOT_FINITE, _OUTSIDE = 253, 254
_NOT_FINITE_RGB, _OUTSIDE_RGB = (20, 20, 20), (214, 217, 221)
_LABEL_BACKGROUND_RGB = (20, 20, 20)


def grey_panel(image: NDArray[np.generic], *, window: tuple[float, float], pixel_mm: tuple[float, float]) -> str:
    """Grey picture of ``image`` (rows, columns), black at ``window[0]`` and white at ``window[1]``."""
    low, high = window
    finite = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low, posinf=high, neginf=low)
    scaled = (_resize(finite, pixel_mm, is_smooth=True) - low) / max(high - low, 1e-6)
    return _data_uri(Image.fromarray((np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)))


def colour_panel(image: NDArray[np.generic], *, window: tuple[float, float], pixel_mm: tuple[float, float]) -> str:
    """Picture of ``image`` (rows, columns, 3) in its colours, from ``window[0]`` to ``window[1]`` in each."""
    low, high = window
    finite = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low, posinf=high, neginf=low)
    channels = [_resize(finite[..., channel], pixel_mm, is_smooth=True) for channel in range(3)]
    scaled = (np.stack(channels, axis=-1) - low) / max(high - low, 1e-6)
    return _data_uri(Image.fromarray((np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)))


def error_panel(
    error: NDArray[np.generic], mask: NDArray[np.generic], *, limit: float, pixel_mm: tuple[float, float]
) -> str:
    """Blue-white-red picture of ``error`` from ``-limit`` to ``limit``; outside the mask grey, not finite black."""
    values = np.asarray(error, dtype=np.float32)
    inside = _resize(np.asarray(mask, dtype=np.float32), pixel_mm, is_smooth=False) > 0
    broken = _resize((~np.isfinite(values)).astype(np.float32), pixel_mm, is_smooth=False) > 0
    smooth = _resize(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), pixel_mm, is_smooth=True)
    half = _LEVELS // 2
    index = (np.clip(smooth / limit, -1, 1) * half).round().astype(np.int16) + half
    index[broken] = _NOT_FINITE
    index[~inside] = _OUTSIDE
    return _data_uri(_palette_image(index.astype(np.uint8), _error_palette()))


def label_panel(labels: NDArray[np.generic], *, pixel_mm: tuple[float, float]) -> str:
    """Picture of a label map: one colour per id, 0 dark."""
    ids = _resize(np.asarray(labels, dtype=np.float32), pixel_mm, is_smooth=False).round().astype(np.int64)
    colours = (np.array(colormaps["tab20"].colors) * 255).round().astype(np.uint8)  # type: ignore[attr-defined]
    palette = np.vstack([[_LABEL_BACKGROUND_RGB], colours])
    index = np.where(ids == 0, 0, (ids - 1) % len(colours) + 1)
    return _data_uri(_palette_image(index.astype(np.uint8), palette))


def grey_bar() -> str:
    """Horizontal bar from black to white."""
    return _data_uri(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))


def error_bar() -> str:
    """Horizontal bar of the colours of an error map, negative at left."""
    return _data_uri(_palette_image(np.arange(_LEVELS, dtype=np.uint8)[None], _error_palette()))


def _error_palette() -> NDArray[np.uint8]:
    colours = colormaps["RdBu_r"](np.linspace(0, 1, _LEVELS))[:, :3]
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:_LEVELS] = (colours * 255).round()
    palette[_NOT_FINITE], palette[_OUTSIDE] = _NOT_FINITE_RGB, _OUTSIDE_RGB
    return palette


def _palette_image(index: NDArray[np.uint8], palette: NDArray[np.generic]) -> Image.Image:
    image = Image.fromarray(index).convert("P")
    image.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
    return image


def _resize(image: NDArray[np.float32], pixel_mm: tuple[float, float], *, is_smooth: bool) -> NDArray[np.float32]:
    """Resample to square pixels, the longer side between ``MIN_PIXELS`` and ``MAX_PIXELS``."""
    height_mm, width_mm = image.shape[0] * pixel_mm[0], image.shape[1] * pixel_mm[1]
    longest_mm = max(height_mm, width_mm)
    longest = int(np.clip(round(longest_mm / min(pixel_mm)), MIN_PIXELS, MAX_PIXELS))
    size = (max(1, round(longest * width_mm / longest_mm)), max(1, round(longest * height_mm / longest_mm)))
    method = Image.Resampling.BILINEAR if is_smooth else Image.Resampling.NEAREST
    source = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(source.resize(size, method), dtype=np.float32)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

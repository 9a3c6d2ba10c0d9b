"""Pictures of every kind of pixel: nothing is cut off, and what cannot be read is named."""

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from monai_synth.data import CaseDataset, PictureReader, Window
from monai_synth.errors import ConfigError, IntensityError

GREY_LEVELS = Window(0, 255, "grey levels")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def load(file: Path, mode: str, window: Window | None = GREY_LEVELS) -> np.ndarray:
    """Read as the bundles do, ``(C, X, Y)``."""
    reader = PictureReader(mode, window)
    transform = LoadImaged("target", reader=reader, ensure_channel_first=True, image_only=True)
    return CaseDataset([{"case_id": "P7", "target": str(file)}], transform)[0]["target"].numpy()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("stored", "ending"),
    [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "bmp"), ("1", "tif"), ("CMYK", "tif")],
)
def test_eight_bits_of_any_kind_become_the_mode_asked_for(stored: str, ending: str, mode: str, tmp_path: Path) -> None:
    file = tmp_path / f"picture.{ending}"
    Image.fromarray(PIXELS).convert(stored).save(file)
    with Image.open(file) as picture:
        expected = np.asarray(picture.convert(mode))
    found = load(file, mode)
    assert found.shape == (len(mode), 7, 5)
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1).squeeze().swapaxes(0, 1), expected)


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [(np.uint16, "png"), (np.uint16, "tif"), (">u2", "tif"), (np.int32, "tif"), (np.float32, "tif")],
)
def test_many_bits_stay_what_they_are(pixels: type, ending: str, tmp_path: Path) -> None:
    levels = np.arange(35, dtype=pixels).reshape(5, 7) * 1872
    Image.fromarray(levels).save(tmp_path / f"cells.{ending}")
    found = load(tmp_path / f"cells.{ending}", "L", Window(0, 65535, "grey levels"))
    np.testing.assert_array_equal(found[0].T, levels)
    dark = levels // 1872
    Image.fromarray(dark).save(tmp_path / f"dark.{ending}")
    np.testing.assert_array_equal(load(tmp_path / f"dark.{ending}", "L")[0].T, dark)


def test_values_outside_the_window_are_refused_with_file_value_and_way_out(tmp_path: Path) -> None:
    file = tmp_path / "cells.png"
    Image.fromarray(np.array([[3, 4012]], dtype=np.uint16)).save(file)
    words = rf"Case 'P7'.*{file} has values from 3 to 4012, but the window .* 0 to 255 grey levels.*#high 65535"
    with pytest.raises(IntensityError, match=words):
        load(file, "L")
    assert load(file, "L", None).max() == 4012
    Image.fromarray(PIXELS).save(tmp_path / "bright.png")
    with pytest.raises(IntensityError, match="the window of the pictures is 0 to 200"):
        load(tmp_path / "bright.png", "RGB", Window(0, 200, "grey levels"))


def test_what_would_be_lost_in_colours_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[3, 40]], dtype=np.uint16)).save(tmp_path / "grey.png")
    with pytest.raises(IntensityError, match="one channel of more than 8 bits .*--image_mode L"):
        load(tmp_path / "grey.png", "RGB")
    Image.fromarray(PIXELS).save(tmp_path / "colour.png")
    with Image.open(tmp_path / "colour.png") as picture:
        picture.tile = [tile._replace(args="RGB;16B") for tile in picture.tile]  # Pillow cannot write such a file
        with pytest.raises(IntensityError, match=r"colour\.png has 16 bits in each of several channels"):
            PictureReader("RGB").get_data(picture)


@pytest.mark.parametrize(("value", "words"), [(0.5, "decimals"), (np.nan, "values from nan")])
def test_decimals_and_holes_are_no_grey_levels(value: float, words: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([[1, value]], dtype=np.float32)).save(tmp_path / "scaled.tif")
    with pytest.raises(IntensityError, match=words):
        load(tmp_path / "scaled.tif", "L")


def test_modes_are_two() -> None:
    with pytest.raises(ConfigError, match="'l': choose 'L'"):
        PictureReader("l")

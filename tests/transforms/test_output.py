"""Rounding, naming and writing of synthetic images, volumes and pictures."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImaged
from PIL import Image

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.transforms import NameByCased, RoundToIntegerd, ToGreyLevelsd, VolumeWriter


def test_rounds_to_the_nearest_integer_not_towards_zero() -> None:
    out = RoundToIntegerd("pred")({"pred": torch.tensor([1.9, -1.9, 0.4, -1000.6])})
    assert out["pred"].tolist() == [2.0, -2.0, 0.0, -1001.0]


def test_names_by_case_and_leaves_what_has_no_case() -> None:
    def image() -> MetaTensor:
        return MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "/somewhere/mr.nii.gz"})

    named = NameByCased("pred")({"pred": image(), "case_id": "P 7"})
    assert named["pred"].meta["filename_or_obj"] == "P 7.nii.gz"
    assert NameByCased("pred")({"pred": image()})["pred"].meta["filename_or_obj"] == "/somewhere/mr.nii.gz"


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 5, 4, 1), (1, 1, 4, 3), (2, 5, 4, 3)])
def test_a_volume_is_written_as_a_volume(shape: tuple[int, ...], tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    pred = MetaTensor(torch.arange(float(np.prod(shape))).reshape(shape), affine=affine)
    pred.meta |= {"filename_or_obj": "case.nii.gz", "spatial_shape": np.array(shape[1:])}
    pred.meta["original_affine"] = affine.numpy()
    options = {"output_dtype": np.int16, "output_postfix": "", "separate_folder": False, "resample": False}
    save = SaveImaged("pred", output_dir=str(tmp_path), writer=VolumeWriter, print_log=False, **options)
    save({"pred": pred})
    written = nib.load(tmp_path / "case.nii.gz")
    assert written.shape == (shape[1:] if shape[0] == 1 else (*shape[1:], shape[0]))
    assert written.get_data_dtype() == np.int16
    np.testing.assert_allclose(written.affine, affine)
    voxels = np.asarray(written.dataobj).reshape(*shape[1:], shape[0])
    np.testing.assert_array_equal(voxels, np.moveaxis(pred.numpy(), 0, -1))


def written_picture(image: torch.Tensor, folder: Path) -> np.ndarray:
    """The pixels ``(rows, columns[, 3])`` of the PNG that is written of an image ``(C, X, Y)``."""
    options = {"output_postfix": "", "separate_folder": False, "resample": False, "print_log": False}
    write = Compose(
        [
            NameByCased("pred"),
            ToGreyLevelsd("pred"),
            SaveImaged("pred", output_dir=str(folder), output_ext=".png", output_dtype=np.uint8, **options),
        ]
    )
    write({"pred": image, "case_id": "P 7.1"})
    return np.asarray(Image.open(folder / "P 7.1.png"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_is_written_as_it_was_read(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    pixels[0, :3] = 255  # the upper left corner
    Image.fromarray(pixels).convert(mode).save(tmp_path / "photo.jpg")
    source = np.asarray(Image.open(tmp_path / "photo.jpg"))
    load = LoadImaged("pred", reader="PILReader", ensure_channel_first=True, image_only=True)
    loaded = load({"pred": tmp_path / "photo.jpg"})["pred"]
    assert loaded.shape == (len(mode), 11, 7)
    np.testing.assert_array_equal(written_picture(loaded, tmp_path), source)
    # What a network gives lies between grey levels; nothing is stretched, cut off or wrapped around.
    np.testing.assert_array_equal(written_picture(loaded / 2 + 0.4, tmp_path), np.rint(source / 2 + 0.4))


def test_grey_levels_stay_numbers_that_can_be_subtracted() -> None:
    out = ToGreyLevelsd("pred")({"pred": torch.tensor([[[-0.4, 254.6, 12.5]]])})["pred"]
    assert out.dtype == torch.float32
    assert out.tolist() == [[[0.0, 255.0, 12.0]]]


@pytest.mark.parametrize("value", [-0.6, 255.6, float("nan"), float("inf")])
def test_what_eight_bits_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(IntensityError, match=r"'pred' has values .*ToPhysicald"):
        ToGreyLevelsd("pred")({"pred": torch.tensor([[[0.0, value]]])})


def test_sixteen_bits_are_written_as_they_are(tmp_path: Path) -> None:
    levels = MetaTensor([[[0.0, 255.4], [256.0, 65534.6]]])
    save = SaveImaged(
        "pred", output_dir=tmp_path, output_ext=".png", output_dtype=np.uint16, output_postfix="",
        separate_folder=False, resample=False, print_log=False,
    )  # fmt: skip
    Compose([NameByCased("pred"), ToGreyLevelsd("pred", bits=16), save])({"pred": levels, "case_id": "cells"})
    assert np.asarray(Image.open(tmp_path / "cells.png")).T.tolist() == [[0, 255], [256, 65535]]
    with pytest.raises(GeometryError, match="with 8 bits"):
        ToGreyLevelsd("pred", bits=16)({"pred": torch.zeros(3, 4, 5)})
    with pytest.raises(ConfigError, match="bits=12"):
        ToGreyLevelsd("pred", bits=12)


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 4, 5, 6), (4, 5)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="VolumeWriter"):
        ToGreyLevelsd("pred")({"pred": torch.zeros(shape)})

import numpy as np
import pytest
import SimpleITK

from monai_synth.reports.volumes import UnreadableImage, first_path, read_volume

SHAPE, SPACING_MM = (5, 7, 3), (2.0, 3.0, 4.0)
ARRAY = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
AFFINE = np.diag([*SPACING_MM, 1.0])
AFFINE[:3, 3] = (-40, 12, 7)


@pytest.mark.parametrize("flip", [(0,), (1, 2), (0, 1, 2)])
def test_flipped_storage_gives_the_same_volume(tmp_path, save_nifti, flip):
    plain, flipped = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    save_nifti(plain, ARRAY, AFFINE)
    save_nifti(flipped, ARRAY, AFFINE, flip)
    first, second = read_volume(plain), read_volume(flipped)
    np.testing.assert_array_equal(first.array, ARRAY)
    np.testing.assert_array_equal(second.array, ARRAY)
    np.testing.assert_allclose(second.affine, first.affine, atol=1e-5)
    assert second.spacing_mm == pytest.approx(SPACING_MM)


def test_metaimage_agrees_with_nifti(tmp_path, save_nifti):
    save_nifti(tmp_path / "a.nii.gz", ARRAY, AFFINE, flip=(1,))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.mha"))
    nifti, meta = read_volume(tmp_path / "a.nii.gz"), read_volume(tmp_path / "a.mha")
    np.testing.assert_array_equal(meta.array, nifti.array)
    np.testing.assert_allclose(meta.affine, nifti.affine, atol=1e-4)
    assert meta.is_integer


def test_two_dimensional_and_colour_images(tmp_path):
    grey = tmp_path / "grey.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 6), np.uint8)), str(grey))
    assert read_volume(grey).array.shape == (6, 4, 1)
    colour = tmp_path / "colour.png"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 6, 3), np.uint8), isVector=True), str(colour))
    volume = read_volume(colour)
    assert volume.array.shape == (6, 4, 1)
    assert volume.num_channels == 3


def test_oblique_grids_know_their_tilt(tmp_path, save_nifti):
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    save_nifti(tmp_path / "a.nii.gz", ARRAY, turn @ AFFINE)
    assert read_volume(tmp_path / "a.nii.gz").tilt_deg == pytest.approx(20, abs=0.01)


def test_missing_and_damaged_files_give_the_reason(tmp_path):
    with pytest.raises(UnreadableImage, match="file is missing"):
        read_volume(tmp_path / "no.nii.gz")
    for name in ("bad.nii.gz", "bad.nii", "bad.mha"):
        (tmp_path / name).write_bytes(b"no image at all")
        with pytest.raises(UnreadableImage, match="cannot be read"):
            read_volume(tmp_path / name)


def test_a_cell_may_hold_a_list():
    assert first_path("/a/b.nii") == ("/a/b.nii", 1)
    assert first_path("['/a/t1.nii', '/a/t2.nii']") == ("/a/t1.nii", 2)
    assert first_path("[odd name].nii") == ("[odd name].nii", 1)

"""Recipes of dermoscopic and other pictures that have masks."""

import pytest

from monai_synth.data.manifest import read_manifest
from monai_synth.data.manifest_check import check_manifest
from monai_synth.data.recipes import build_manifest
from monai_synth.errors import ManifestError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_isic_2017_as_its_archives_are_called(tmp_path):
    for part, number in (("Training", 0), ("Validation", 1), ("Test_v2", 2)):
        name = f"ISIC_000000{number}"
        touch(tmp_path, f"ISIC-2017_{part}_Data/{name}.jpg", f"ISIC-2017_{part}_Data/{name}_superpixels.png")
        touch(tmp_path, f"ISIC-2017_{part}_Part1_GroundTruth/{name}_segmentation.png")
    touch(tmp_path, "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv")
    touch(tmp_path, "ISIC-2017_Training_Part2_GroundTruth/ISIC_0000000_features.json")
    manifest = build_manifest("isic2017", tmp_path, tmp_path / "cohort.csv")
    assert list(manifest.table.columns) == ["patient_id", "case_id", "meta_part", "image", "mask"]
    assert manifest.table["case_id"].tolist() == ["ISIC_0000000", "ISIC_0000001", "ISIC_0000002"]
    assert manifest.table["meta_part"].tolist() == ["Training", "Validation", "Test"]
    assert manifest.table["mask"][2] == "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0000002_segmentation.png"
    assert not check_manifest(read_manifest(manifest.file), deep=False)


def test_isic_2018_with_attributes_of_some_images(tmp_path):
    attributes = ("pigment_network", "negative_network", "streaks", "milia_like_cyst", "globules")
    for part, version, number in (("Training", "_v3", 0), ("Validation", "", 1), ("Test", None, 2)):
        name = f"ISIC_000000{number}"
        touch(tmp_path, f"ISIC2018_Task1-2_{part}_Input/{name}.jpg", f"ISIC2018_Task1-2_{part}_Input/LICENSE.txt")
        touch(tmp_path, f"ISIC2018_Task1_{part}_GroundTruth/{name}_segmentation.png")
        if version is not None:
            folder = f"ISIC2018_Task2_{part}_GroundTruth{version}"
            touch(tmp_path, *(f"{folder}/{name}_attribute_{attribute}.png" for attribute in attributes))
    manifest = build_manifest("isic2018", tmp_path, tmp_path / "cohort.csv")
    assert manifest.roles == ("image", "mask", *attributes)
    assert manifest.table["meta_part"].tolist() == ["Training", "Validation", "Test"]
    for attribute in attributes:
        assert manifest.table[attribute].isna().tolist() == [False, False, True]
        assert attribute in manifest.table[attribute][0]


def test_isic_2018_needs_no_attributes(tmp_path):
    touch(tmp_path, "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg")
    touch(tmp_path, "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png")
    assert build_manifest("isic2018", tmp_path, tmp_path / "cohort.csv").roles == ("image", "mask")


def test_pictures_and_masks_of_several_endings(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.PNG", "images/c.1.tif", "images/7.jpeg", "images/Thumbs.db")
    touch(tmp_path, "masks/a_segmentation.png", "masks/b.png", "masks/c.1_mask.tiff", "masks/7.png")
    manifest = build_manifest("image_mask_folders", tmp_path, tmp_path / "cohort.csv")
    pairs = dict(zip(manifest.table["case_id"], manifest.table["mask"], strict=True))
    assert pairs == {
        "7": "masks/7.png",
        "a": "masks/a_segmentation.png",
        "b": "masks/b.png",
        "c.1": "masks/c.1_mask.tiff",
    }


def test_two_masks_of_one_picture_are_refused(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks/a_segmentation.png")
    with pytest.raises(ManifestError, match="two values for 'mask'"):
        build_manifest("image_mask_folders", tmp_path, tmp_path / "cohort.csv")


@pytest.mark.parametrize(
    ("recipe", "folder", "num_cases"),
    [("isic2017", "ISIC2017_768", 6), ("image_mask_folders", "ISIC2017_192x256", 300)],
)
def test_real_pictures_are_built_read_and_sound(shared_dir, tmp_path, recipe, folder, num_cases):
    root = shared_dir / "data" / "E_dermoscopy" / folder
    manifest = build_manifest(recipe, root, tmp_path / "manifest.csv")
    again = read_manifest(manifest.file, data_root=root)
    assert len(again) == len(again.patients) == num_cases
    assert check_manifest(again) == []

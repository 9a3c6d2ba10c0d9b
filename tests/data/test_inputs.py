"""What an inference finds at the path it is given."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from PIL import Image

from monai_synth.data import find_images
from monai_synth.errors import ConfigError, ManifestError


@pytest.fixture
def scan(demo_manifest: Path) -> Path:
    return demo_manifest.parent / "P001" / "mr.nii.gz"


def write_series(folder: Path, *, series: str = "1", positions: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0)) -> Path:
    """A DICOM series of 8 x 8 slices."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, z in enumerate(positions):
        plane = sitk.GetImageFromArray(np.full((8, 8), index, dtype=np.int16))
        for tag, value in {
            "0008|0060": "MR",
            "0020|000e": f"1.2.3.{series}",
            "0008|0018": f"1.2.3.{series}.{index + 1}",
            "0020|0013": str(index + 1),
            "0020|0032": f"0\\0\\{z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}_{index}.dcm"))
        writer.Execute(plane)
    return folder


def test_one_file_is_named_after_itself(scan: Path) -> None:
    assert find_images(scan) == [{"case_id": "mr", "image": str(scan)}]


def test_a_folder_gives_volumes_and_series_at_any_depth(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "p1" / "day 1").mkdir(parents=True)
    shutil.copy(scan, tmp_path / "p1" / "day 1" / "mr.nii.gz")
    write_series(tmp_path / "p2")
    (tmp_path / "p2" / "A_note.txt").write_text("a file that is no slice, first in the folder")
    found = find_images(tmp_path, key="scan")
    assert [case["case_id"] for case in found] == ["p1_day_1_mr", "p2"]
    assert found[1]["scan"] == str(tmp_path / "p2")


def test_a_folder_that_is_a_series_is_one_case(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series")
    assert find_images(folder) == [{"case_id": "series", "image": str(folder)}]


def test_two_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "mixed", series="1")
    write_series(tmp_path / "mixed", series="2")
    with pytest.raises(ManifestError, match="2 readable DICOM series"):
        find_images(tmp_path / "mixed")


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "gap", positions=(0.0, 2.0, 6.0, 8.0))
    with pytest.raises(ManifestError, match=r"2\.00 to 4\.00 mm apart"):
        find_images(folder)


def test_results_may_not_go_where_the_images_are(scan: Path) -> None:
    folder = scan.parent
    for out in (folder, folder / "out"):
        with pytest.raises(ManifestError, match="lies in the input folder"):
            find_images(folder, output_dir=out)
    assert find_images(folder, output_dir=folder.parent / "out")


@pytest.mark.parametrize(
    ("name", "message"), [("empty", "holds no volume"), ("nowhere", "does not exist"), ("x.txt", "no volume")]
)
def test_nothing_to_translate_is_said(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.txt").write_text("x" * 200)
    with pytest.raises(ManifestError, match=message):
        find_images(tmp_path / name)


def test_no_input_at_all() -> None:
    with pytest.raises(ManifestError, match="--input PATH"):
        find_images(None)


def test_a_result_that_is_there_is_not_overwritten_unasked(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "mr_sct.nii.gz").write_bytes(b"another patient's")
    options = {"output_dir": tmp_path, "output_suffix": "_sct.nii.gz"}
    with pytest.raises(ManifestError, match=r"mr_sct.nii.gz is there already \(1 of 1 results\).*--overwrite true"):
        find_images(scan, **options)
    assert find_images(scan, overwrite=True, **options)


def test_a_pattern_picks_the_condition_out_of_a_patients_folder(scan: Path) -> None:
    assert {case["case_id"] for case in find_images(scan.parent)} == {"ct", "labels", "mask", "mr"}
    assert [case["case_id"] for case in find_images(scan.parent, pattern="mr.nii.gz")] == ["mr"]
    with pytest.raises(ManifestError, match="no volume called 't1.nii.gz'"):
        find_images(scan.parent, pattern="t1.nii.gz")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures in two folders, with a volume and a hidden file beside them."""
    folder = tmp_path / "photos"
    (folder / "day 2").mkdir(parents=True)
    for name in ("a.JPG", "b.png", "day 2/a.jpg", "._b.png"):
        Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(folder / name)
    (folder / "scan.nii.gz").write_bytes(b"a volume")
    return folder


def test_pictures_are_listed_when_asked_for(photos: Path, tmp_path: Path) -> None:
    found = find_images(photos, kinds="pictures", output_dir=tmp_path / "out")
    assert [case["case_id"] for case in found] == ["a", "b", "day_2_a"]
    assert [case["case_id"] for case in find_images(photos, kinds="pictures", pattern="a.*")] == ["a", "day_2_a"]
    assert find_images(photos / "b.png", kinds="pictures") == [{"case_id": "b", "image": str(photos / "b.png")}]
    assert [case["case_id"] for case in find_images(photos)] == ["scan"]


def test_pictures_meet_the_same_care(photos: Path, tmp_path: Path) -> None:
    options = {"kinds": "pictures", "output_dir": tmp_path, "output_suffix": ".png"}
    with pytest.raises(ManifestError, match="lies in the input folder"):
        find_images(photos, kinds="pictures", output_dir=photos / "out")
    (tmp_path / "b.png").write_bytes(b"another patient's")
    with pytest.raises(ManifestError, match=r"b.png is there already \(1 of 3 results\)"):
        find_images(photos, **options)
    assert len(find_images(photos, overwrite=True, **options)) == 3
    shutil.copy(photos / "b.png", photos / "a.png")
    with pytest.raises(ManifestError, match="both be called 'a'"):
        find_images(photos, kinds="pictures")


def test_a_result_never_replaces_its_source(photos: Path) -> None:
    with pytest.raises(ManifestError, match="replace it"):
        find_images(photos / "b.png", kinds="pictures", output_dir=photos, output_suffix=".png", overwrite=True)


def test_what_is_no_picture_is_said(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no picture\. Readable are \.png"):
        find_images(photos / "scan.nii.gz", kinds="pictures")
    with pytest.raises(ManifestError, match="holds no picture called 'x.png'"):
        find_images(photos, kinds="pictures", pattern="x.png")
    with pytest.raises(ConfigError, match="'volumes' or 'pictures'"):
        find_images(photos, kinds="photos")

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from monai_synth.data.manifest import Manifest, read_manifest
from monai_synth.data.manifest_check import Finding, check_manifest, format_findings
from monai_synth.errors import ManifestError

SHAPE = (6, 7, 5)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, 0.1) @ np.diag([-1.0, 1.2, 2.5]), [31.0, -20.0, 105.0]
)  # oblique, anisotropic, flipped


def save(file: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(data, affine), file)


def save_case(folder: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "mr.nii.gz", rng.normal(100, 20, SHAPE).astype(np.float32))
    save(folder / "ct.nii.gz", rng.integers(-1000, 1500, SHAPE).astype(np.int16))
    save(folder / "mask.nii.gz", np.ones(SHAPE, np.uint8))


@pytest.fixture
def root(tmp_path):
    """Two sound cases ``a`` and ``b``; tests damage ``a``."""
    folder = tmp_path / "root"
    rows = ["patient_id,case_id,split,mr,ct,mask"]
    for seed, case in enumerate("ab"):
        save_case(folder / case, seed)
        rows.append(f"P{case},{case},train,{case}/mr.nii.gz,{case}/ct.nii.gz,{case}/mask.nii.gz")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


def manifest_of(root: Path) -> Manifest:
    return read_manifest(root / "manifest.csv")


def only_finding(root: Path, **options) -> Finding:
    findings = check_manifest(manifest_of(root), **options)
    assert len(findings) == 1, format_findings(findings)
    return findings[0]


def replace_path(root: Path, old: str, new: str) -> None:
    file = root / "manifest.csv"
    file.write_text(file.read_text().replace(old, new))


def ramp(low: float, high: float, dtype: type = np.float32) -> np.ndarray:
    return np.linspace(low, high, np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("deep", [True, False])
def test_sound_cohort_has_no_findings(root, deep, num_workers):
    assert check_manifest(manifest_of(root), deep=deep, num_workers=num_workers) == []


@pytest.mark.parametrize("deep", [True, False])
def test_missing_file_names_what_is_there(root, deep):
    (root / "a" / "ct.nii.gz").rename(root / "a" / "ct.nii")
    finding = only_finding(root, deep=deep)
    assert (finding.case_id, finding.patient_id, finding.role, finding.rule) == ("a", "Pa", "ct", "exists")
    assert "a/ct.nii.gz does not exist" in finding.message
    assert "holds ct.nii, mask.nii.gz, mr.nii.gz" in finding.message


def test_text_in_a_role_column_is_recognised(root):
    replace_path(root, "a/mr.nii.gz", "Siemens")
    assert "'meta_mr'" in only_finding(root).way_out


def test_empty_cell_is_no_finding_but_an_empty_row_is(root):
    replace_path(root, ",b/mr.nii.gz", ",")
    assert check_manifest(manifest_of(root)) == []
    replace_path(root, "b/ct.nii.gz,b/mask.nii.gz", ",")
    assert only_finding(root).rule == "has files"


def damage_truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def damage_flip_bit(file: Path) -> None:
    raw = bytearray(gzip.decompress(file.read_bytes()))
    sound = gzip.compress(bytes(raw), compresslevel=0)  # stored, so that only the checksum can tell
    damaged = bytearray(sound)
    damaged[-40] ^= 1
    file.write_bytes(damaged)


def damage_cut_voxels(file: Path) -> None:
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-30]))


def damage_empty(file: Path) -> None:
    file.write_bytes(b"")


def damage_pointer(file: Path) -> None:
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def damage_text(file: Path) -> None:
    file.write_bytes(gzip.compress(b"no header, but long enough for one " * 20))


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_flip_bit, damage_cut_voxels, damage_empty, damage_pointer, damage_text],
    ids=lambda f: f.__name__,
)
def test_damaged_file_is_found_and_stops_nothing(root, damage):
    damage(root / "a" / "mr.nii.gz")
    save(root / "b" / "ct.nii.gz", np.full(SHAPE, 7, np.int16))
    findings = check_manifest(manifest_of(root))
    assert [(f.case_id, f.role) for f in findings] == [("a", "mr"), ("b", "ct")]
    assert findings[0].rule == "readable"
    assert "mr.nii.gz" in findings[0].message
    assert findings[1].rule == "not constant"


def test_nan_and_infinity_are_counted(root):
    data = ramp(0, 1)
    data[0, 0, :3] = np.nan, np.nan, np.inf
    save(root / "a" / "mr.nii.gz", data)
    assert "3 of 210 voxels are not finite (2 NaN)" in only_finding(root).message
    save(root / "a" / "mr.nii.gz", np.full(SHAPE, np.nan, np.float32))
    assert "210 of 210" in only_finding(root).message


@pytest.mark.parametrize(("shape", "words"), [((6, 7, 5, 2), "4D with shape 6 x 7 x 5 x 2"), ((6, 7), "2D with shape")])
def test_images_are_3d(root, shape, words):
    save(root / "a" / "mr.nii.gz", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    finding = only_finding(root)
    assert finding.rule == "3D"
    assert words in finding.message


def test_single_slices_are_volumes(root):
    for role in ("mr", "ct", "mask"):
        image = nib.load(root / "a" / f"{role}.nii.gz")
        affine = AFFINE.copy()
        affine[:3, 2] *= 3 if role == "mask" else 1  # thickness of a single slice moves no voxel
        save(root / "a" / f"{role}.nii.gz", np.asarray(image.dataobj)[:, :, :1], affine)
    assert check_manifest(manifest_of(root)) == []


@pytest.mark.parametrize("step", [0.0, -1.0])
def test_spacing_in_the_header(root, step):
    file = root / "a" / "mr.nii.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[80:84] = np.float32(step).tobytes()  # pixdim[1] of NIfTI-1
    file.write_bytes(gzip.compress(bytes(raw)))
    rules = [finding.rule for finding in check_manifest(manifest_of(root))]
    assert "spacing" in rules


def test_affine_that_spans_nothing(root):
    file = root / "a" / "mr.nii.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    raw[312:328] = bytes(16)  # srow_z of NIfTI-1
    file.write_bytes(gzip.compress(bytes(raw)))
    assert "affine" in [finding.rule for finding in check_manifest(manifest_of(root))]


def test_sform_and_qform_that_disagree(root):
    image = nib.load(root / "a" / "mr.nii.gz")
    image = nib.Nifti1Image(np.asarray(image.dataobj), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 5
    image.set_sform(AFFINE, code=1)
    image.set_qform(moved, code=1)
    nib.save(image, root / "a" / "mr.nii.gz")
    finding = only_finding(root)
    assert finding.severity == "warning"
    assert "disagree by up to 5.0 mm" in finding.message


def moved(affine: np.ndarray, shift_mm: tuple[float, float, float]) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), shift_mm) @ affine


def flipped_in_place(axis: int) -> np.ndarray:
    steps = np.eye(4)
    steps[axis, axis], steps[axis, 3] = -1, SHAPE[axis] - 1
    return AFFINE @ steps


ROTATION = nib.affines.from_matvec(nib.eulerangles.euler2mat(np.deg2rad(5)))


@pytest.mark.parametrize(
    ("affine", "words", "absent"),
    [
        (
            moved(AFFINE, (0, 0, 12)),
            ["shifted by 12.0 mm (x +0.0, y +0.0, z +12.0"],
            ["flipped", "rotated", "permuted"],
        ),
        (moved(AFFINE, (0.002, 0, 0)), ["shifted by 0.002 mm"], ["flipped", "rotated"]),
        (flipped_in_place(0), ["flipped along axis x"], ["shifted", "axis y", "rotated"]),
        (flipped_in_place(2), ["flipped along axis z"], ["shifted", "axis x", "rotated"]),
        (AFFINE @ np.diag([-1, 1, 1, 1]), ["flipped along axis x", "shifted by 5.0 mm"], ["axis y", "rotated"]),
        (ROTATION @ AFFINE, ["rotated against 'mr' by 5.0 degrees"], ["flipped", "permuted"]),
        (AFFINE @ np.diag([1, 1, 2, 1]), ["spacing is 1 x 1.2 x 5 mm where 'mr' has 1 x 1.2 x 2.5 mm"], ["flipped"]),
    ],
)
def test_grid_difference_is_said_in_words(root, affine, words, absent):
    save(root / "a" / "ct.nii.gz", ramp(-1000, 1000, np.int16), affine)
    finding = only_finding(root)
    assert (finding.role, finding.rule) == ("ct", "same grid")
    assert all(word in finding.message for word in words), finding.message
    assert not any(word in finding.message for word in absent), finding.message


def test_permuted_axes(root):
    permutation = np.eye(4)[:, [1, 0, 2, 3]]
    save(root / "a" / "ct.nii.gz", ramp(-1000, 1000, np.int16).transpose(1, 0, 2), AFFINE @ permutation)
    finding = only_finding(root)
    assert "shape is 7 x 6 x 5 where 'mr' has 6 x 7 x 5" in finding.message
    assert "axes permuted: its x, y, z run along y, x, z of 'mr'" in finding.message
    assert "shifted" not in finding.message
    assert finding.way_out == "store both in one orientation"


def test_other_shape(root):
    save(root / "a" / "mask.nii.gz", np.ones((6, 7, 4), np.uint8))
    assert "shape is 6 x 7 x 4 where 'mr' has 6 x 7 x 5" in only_finding(root).message


def test_position_below_the_tolerance_is_equal(root):
    save(root / "a" / "ct.nii.gz", ramp(-1000, 1000, np.int16), moved(AFFINE, (0.0005, 0, 0)))
    assert check_manifest(manifest_of(root)) == []


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 255, "8-bit grey values, not HU"),
        (0, 3000, "rescale intercept"),
        (-1, 1, "network's range"),
        (-150, 1000, "no air"),
        (-1000, 50, "no bone"),
    ],
)
def test_ct_that_is_not_in_hu(root, low, high, words):
    save(root / "a" / "ct.nii.gz", ramp(low, high))
    assert words in only_finding(root).message
    assert check_manifest(manifest_of(root), units={"ct": "a.u."}) == []


def test_units_say_which_roles_are_in_hu(root):
    findings = check_manifest(manifest_of(root), units={"mr": "HU"})
    assert [(finding.role, finding.rule) for finding in findings] == [("mr", "HU"), ("mr", "HU")][: len(findings)]
    assert findings
    with pytest.raises(ManifestError, match="'CT'"):
        check_manifest(manifest_of(root), units={"CT": "HU"})


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (np.zeros(SHAPE, np.uint8), "not empty"),
        (ramp(0, 1), "whole numbers"),
        (ramp(-1, 1).round(), "labels from 0"),
    ],
)
def test_masks(root, data, rule):
    save(root / "a" / "mask.nii.gz", data)
    assert only_finding(root).rule == rule


def test_labels_may_be_empty_with_a_warning(root):
    replace_path(root, ",mask", ",seg_organs")
    save(root / "a" / "mask.nii.gz", np.zeros(SHAPE, np.float32))
    assert only_finding(root).severity == "warning"


def test_constant_image(root):
    save(root / "a" / "mr.nii.gz", np.full(SHAPE, 3, np.int16))
    assert only_finding(root).message == "every voxel is 3"


@pytest.mark.parametrize("deep", [True, False])
def test_file_of_two_rows(root, deep):
    replace_path(root, "b/ct.nii.gz", "a/ct.nii.gz")
    finding = only_finding(root, deep=deep)
    assert finding.rule == "used once"
    assert "by several patients: a (ct), b (ct)" in finding.message


def test_file_of_two_roles_of_one_case_is_a_warning(root):
    replace_path(root, "a/mr.nii.gz", "a/ct.nii.gz")
    assert only_finding(root).severity == "warning"


@pytest.mark.parametrize("deep", [True, False])
def test_links(root, tmp_path, deep):
    outside = tmp_path / "outside.nii.gz"
    shutil.move(root / "a" / "mr.nii.gz", outside)
    (root / "a" / "mr.nii.gz").symlink_to(outside)
    finding = only_finding(root, deep=deep)
    assert finding.rule == "inside root"
    assert str(outside) in finding.message
    shutil.move(outside, root / "moved.nii.gz")
    (root / "a" / "mr.nii.gz").unlink()
    (root / "a" / "mr.nii.gz").symlink_to(root / "moved.nii.gz")
    assert check_manifest(manifest_of(root), deep=deep) == []


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_volume_formats_share_the_grid_of_nifti(root, suffix):
    image = sitk.ReadImage(str(root / "a" / "ct.nii.gz"))
    file = root / "a" / f"ct{suffix}"
    sitk.WriteImage(image, str(file), useCompression=True)
    replace_path(root, "a/ct.nii.gz", f"a/ct{suffix}")
    assert check_manifest(manifest_of(root)) == []
    damage_truncate(file)
    assert only_finding(root).rule == "readable"


def test_channels_and_dimensions_of_other_formats(root):
    for number, image in enumerate(
        (sitk.Image([6, 7, 5], sitk.sitkVectorInt16, 2), sitk.Image([6, 7], sitk.sitkInt16))
    ):
        sitk.WriteImage(image, str(root / f"{number}.mha"))
    replace_path(root, "a/mr.nii.gz,", "0.mha,")
    assert only_finding(root).rule == "one channel"
    replace_path(root, "0.mha,", "1.mha,")
    assert only_finding(root).rule == "3D"


def test_pictures(root):
    rng = np.random.default_rng(0)
    picture = sitk.GetImageFromArray(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8), isVector=True)
    mask = sitk.GetImageFromArray(rng.integers(0, 2, (8, 9), dtype=np.uint8) * 255)
    sitk.WriteImage(picture, str(root / "p.png"))
    sitk.WriteImage(mask, str(root / "m.png"))
    (root / "manifest.csv").write_text("patient_id,case_id,image,mask\nP,a,p.png,m.png\n")
    assert check_manifest(manifest_of(root)) == []
    (root / "manifest.csv").write_text("patient_id,case_id,mask\nP,a,p.png\n")
    assert only_finding(root).rule == "one channel"


def picture_case(root: Path, image: str = "p.jpg", mask: str = "m.png") -> np.ndarray:
    """A photograph and its mask; gives the mask's pixels, ``(rows, columns)``."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((8, 10), dtype=np.uint8)
    pixels[2:5, 3:9] = 255
    Image.fromarray(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)).save(root / "p.jpg")
    Image.fromarray(pixels).save(root / "m.png")
    (root / "manifest.csv").write_text(f"patient_id,case_id,image,mask\nP,a,{image},{mask}\n")
    return pixels


@pytest.mark.parametrize("name", ["p.jpg", "p.tif", "p.bmp"])
def test_dots_per_inch_are_no_spacing(root, name):
    picture_case(root, image=name)
    Image.open(root / "p.jpg").save(root / name, dpi=(72, 72))
    assert check_manifest(manifest_of(root)) == []


def test_a_mask_on_its_side_is_on_another_grid(root):
    turned = picture_case(root).T
    Image.fromarray(np.ascontiguousarray(turned)).save(root / "m.png")
    finding = only_finding(root)
    assert finding.rule == "same grid"
    assert "shape is 8 x 10 x 1 where 'image' has 10 x 8 x 1" in finding.message


def test_ids_of_a_palette_are_labels(root):
    ids = Image.fromarray((picture_case(root) > 0).astype(np.uint8))
    ids.putpalette([0, 0, 0, 255, 0, 0])
    ids.save(root / "m.png")
    assert check_manifest(manifest_of(root)) == []


@pytest.mark.parametrize("rule", ["one channel", "lossless", "upright"])
def test_pictures_that_only_look_right_are_warned_of(root, rule):
    pixels = picture_case(root, mask="m.jpg" if rule == "lossless" else "m.png")
    if rule == "one channel":
        Image.fromarray(np.dstack([pixels] * 3)).save(root / "m.png")
    elif rule == "lossless":
        Image.fromarray(pixels).save(root / "m.jpg")
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(root / "p.jpg").save(root / "p.jpg", exif=exif)
    finding = only_finding(root)
    assert (finding.rule, finding.severity) == (rule, "warning")


def test_several_pictures_in_one_file_and_half_a_picture_are_refused(root):
    picture_case(root, image="p.tif")
    page = Image.open(root / "p.jpg")
    page.save(root / "p.tif", save_all=True, append_images=[page])
    assert only_finding(root).rule == "one picture"
    picture_case(root)
    (root / "p.jpg").write_bytes((root / "p.jpg").read_bytes()[:-300])
    assert only_finding(root).rule == "readable"


def test_unknown_format(root):
    (root / "a" / "mr.docx").write_text("x")
    replace_path(root, "a/mr.nii.gz", "a/mr.docx")
    finding = only_finding(root)
    assert finding.rule == "format"
    assert ".mha" in finding.message


def save_dicom(folder: Path, places_mm: list[float], series: str) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, place in enumerate(places_mm):
        image = sitk.GetImageFromArray(rng.integers(-1000, 1500, (7, 6), dtype=np.int16))
        image.SetSpacing([1.0, 1.2])
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": series, "0008|0018": f"{series}.{number + 1}"}
        tags |= {"0020|0032": f"0\\0\\{place}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(number)}
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}_{number}.dcm"))
        writer.Execute(image)


def test_dicom_folders(root):
    (root / "manifest.csv").write_text("patient_id,case_id,ct\nP,a,dicom\n")
    save_dicom(root / "dicom", [0, 2.5, 5, 7.5], "1.2.3.1")
    assert check_manifest(manifest_of(root)) == []
    (root / "dicom" / "1.2.3.1_2.dcm").unlink()
    assert "2.50 to 5.00 mm apart" in only_finding(root).message
    save_dicom(root / "dicom", [0, 2.5], "1.2.3.2")
    assert "2 readable DICOM series" in only_finding(root).message
    shutil.rmtree(root / "dicom")
    (root / "dicom").mkdir()
    assert "0 readable DICOM series" in only_finding(root).message


def test_table_shows_everything(root):
    (root / "a" / "ct.nii.gz").unlink()
    save(root / "b" / "mask.nii.gz", np.zeros(SHAPE, np.uint8))
    findings = check_manifest(manifest_of(root))
    text = format_findings(findings)
    words = text.split()
    for finding in findings:
        for cell in (finding.case_id, finding.role, finding.rule, finding.message, finding.way_out, finding.severity):
            assert set(cell.split()) <= set(words)
    assert text.splitlines()[0].split() == ["severity", "case", "role", "rule", "what", "is", "wrong", "way", "out"]
    assert text.endswith("2 error(s) and 0 warning(s) in 2 case(s).")
    assert format_findings([]) == "No findings."

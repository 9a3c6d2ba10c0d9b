from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.transforms import BodyMaskd, MaskBackgroundd, body_mask

SPACING_MM = (2.0, 2.5, 4.0)


def phantom(num_slices: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT ``(X, Y, Z)`` of a trunk with lungs, an ear, and a table in contact; the true body; the table."""
    shape = (90, 70, num_slices)
    x, y, z = (axis * size for axis, size in zip(np.indices(shape), SPACING_MM, strict=True))
    body = ((x - 90) / 60) ** 2 + ((y - 90) / 45) ** 2 <= 1
    ear = (abs(x - 154) <= 7) & (abs(y - 85) <= 2.5) & (abs(z - 12) <= 6)
    lung = ((x - 70) / 18) ** 2 + ((y - 85) / 25) ** 2 <= 1
    table = (y >= 137) & (y <= 143) & (abs(x - 90) <= 80)
    ct = np.full(shape, -1000.0, np.float32)
    ct[table] = -150
    ct[body | ear] = 40
    ct[lung] = -850
    return ct, body | ear, table & ~body


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_table_goes_lungs_and_ear_stay() -> None:
    ct, body, table = phantom()
    mask = body_mask(ct, SPACING_MM)

    assert mask.dtype == bool
    assert (mask & body).sum() == body.sum()
    assert (mask & table).sum() < 0.05 * table.sum()
    assert dice(mask, body) > 0.995


def test_lungs_that_end_at_the_last_slice_or_reach_outside_are_inside() -> None:
    ct, _, _ = phantom()
    assert body_mask(ct, SPACING_MM)[35, 34, 0], "open in 3D, closed in the slice"
    ct[34:36, :34] = np.where(ct[34:36, :34] > -500, -1000, ct[34:36, :34])  # a gap of 4 mm through the skin
    assert body_mask(ct, SPACING_MM)[35, 34].all()


def test_thin_wall_of_a_closed_cavity_stays() -> None:
    ct, body, table = phantom()
    sinus = np.zeros_like(body)
    sinus[36:55, 21:24, 2:7] = True  # 38 mm wide, behind 5 mm of forehead
    ct[sinus] = -1000
    mask = body_mask(ct, SPACING_MM)

    assert mask[body].mean() > 0.999
    assert mask[table].mean() < 0.05


def test_lungs_that_the_field_of_view_cuts_are_inside() -> None:
    ct, _, _ = phantom()
    mask = body_mask(ct[35:], SPACING_MM)

    assert mask[0, 30:38].all()
    assert not mask[:, :10].any(), "the air outside touches the sides as well"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axial_axis_is_free(axis: int) -> None:
    ct, _, _ = phantom()
    expected = body_mask(ct, SPACING_MM)
    turned = body_mask(
        np.moveaxis(ct, 2, axis), np.insert(SPACING_MM[:2], axis, SPACING_MM[2]).tolist(), axial_axis=axis
    )

    np.testing.assert_array_equal(np.moveaxis(turned, axis, 2), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_with_a_singleton_axis_equals_the_image(axis: int) -> None:
    ct, body, _ = phantom()
    plane = ct[..., 4]
    expected = body_mask(plane, SPACING_MM[:2])

    assert expected.shape == plane.shape
    assert dice(expected, body[..., 4]) > 0.99
    spacing_mm = np.insert(SPACING_MM[:2], axis, 1.0).tolist()
    np.testing.assert_array_equal(body_mask(np.expand_dims(plane, axis), spacing_mm).squeeze(axis), expected)


@pytest.mark.parametrize("voxel_mm", [1.0, 2.0])
@pytest.mark.parametrize(("opening_mm", "is_kept"), [(3.5, True), (4.5, False)])
def test_lengths_are_millimetres(voxel_mm: float, opening_mm: float, is_kept: bool) -> None:
    """A plate of 8 mm sticks out of a block by 40 mm."""
    x, y = np.indices((int(120 / voxel_mm), int(60 / voxel_mm))) * voxel_mm
    ct = np.where((x >= 10) & (x < 60) & (y >= 10) & (y < 50), 20.0, -1000.0)
    plate = (x >= 60) & (x < 100) & (y >= 26) & (y < 34)
    ct[plate] = 0
    mask = body_mask(ct, (voxel_mm, voxel_mm), opening_mm=opening_mm)

    assert (mask[plate].mean() > 0.95) if is_kept else (mask[plate].mean() < 0.1)


def test_mr_keeps_scalp_and_skull() -> None:
    x, y = np.indices((80, 70))
    radius = np.hypot((x - 40) / 1.15, y - 35)
    image = np.abs(np.random.default_rng(0).normal(0, 8, (80, 70))).astype(np.float32)
    image[radius < 30] += 250  # scalp
    image[radius < 26] -= 250  # skull
    image[radius < 22] += 400  # brain
    mask = body_mask(np.stack([image, image], 2), (1.0, 1.0, 5.0), threshold="otsu")

    assert dice(mask[..., 0], radius < 30) > 0.99


def test_both_legs_stay_unless_only_one_is_wanted() -> None:
    ct = np.full((60, 30, 4), -1000.0)
    ct[5:25, 5:25], ct[32:50, 5:25] = 20, 20
    both = body_mask(ct, (2, 2, 4))

    assert both[10, 10].all()
    assert both[40, 10].all()
    assert not body_mask(ct, (2, 2, 4), min_volume_fraction=1)[40, 10].any()


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAR", "PIR"])
def test_dictionary_finds_spacing_and_axis_in_the_affine(axcodes: str) -> None:
    ct, _, _ = phantom()
    image = nib.Nifti1Image(ct, np.diag([*SPACING_MM, 1.0]))
    ornt = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axcodes))
    turned = image.as_reoriented(ornt)
    data = {"ct": MetaTensor(torch.from_numpy(np.array(turned.dataobj))[None], affine=torch.from_numpy(turned.affine))}
    out = BodyMaskd("ct", mask_key="body")(data)["body"]

    assert out.dtype == torch.uint8
    assert torch.equal(out.affine, data["ct"].affine)
    back = nib.Nifti1Image(out[0].numpy(), turned.affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(turned.affine), nib.io_orientation(image.affine))
    )
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), body_mask(ct, SPACING_MM))


def test_background_changes_and_interior_does_not() -> None:
    ct, body, table = phantom()
    data = {"ct": MetaTensor(torch.from_numpy(ct)[None], affine=torch.diag(torch.tensor([*SPACING_MM, 1.0])))}
    out = MaskBackgroundd("ct", value=-1024)(BodyMaskd("ct")(data))
    after = out["ct"][0].numpy()

    np.testing.assert_array_equal(after[body], ct[body])
    assert (after[out["mask"][0].numpy() == 0] == -1024).all()
    assert (after[table] == -1024).mean() > 0.95
    assert isinstance(out["ct"], MetaTensor)
    assert torch.equal(out["ct"].affine, data["ct"].affine)
    assert data["ct"].min() == -1000, "the input is left as it was"


def test_one_background_value_per_key() -> None:
    data = {"mr": torch.ones(2, 3, 3), "ct": torch.ones(1, 3, 3), "mask": torch.eye(3)[None]}
    out = MaskBackgroundd(["mr", "ct"], value=(0, -1024))(data)

    assert out["mr"].sum() == 6
    assert out["ct"].sum() == 3 - 6 * 1024
    with pytest.raises(ConfigError, match="3 values"):
        MaskBackgroundd(["mr", "ct"], value=(0, 1, 2))


def test_mask_of_another_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"'mask' has shape \(1, 3, 4\), 'ct' \(1, 3, 3\)"):
        MaskBackgroundd("ct")({"ct": torch.zeros(1, 3, 3), "mask": torch.zeros(1, 3, 4)})
    with pytest.raises(GeometryError, match="one grid"):
        BodyMaskd(["a", "b"])({"a": torch.rand(1, 9, 9, 3) * 100, "b": torch.rand(1, 9, 8, 3) * 100})


def test_images_without_a_body_are_refused() -> None:
    with pytest.raises(IntensityError, match="No body: 0.0%"):
        body_mask(np.full((9, 9, 3), -1000.0), (1, 1, 1))
    with pytest.raises(IntensityError, match="constant"):
        body_mask(np.zeros((9, 9, 3)), (1, 1, 1), threshold="otsu")


def test_arguments_are_checked() -> None:
    with pytest.raises(GeometryError, match="Give channels one by one"):
        body_mask(np.zeros((1, 9, 9, 3)), (1, 1, 1))
    with pytest.raises(ConfigError, match="opening_mm=-1"):
        body_mask(np.zeros((9, 9, 3)), (1, 1, 1), opening_mm=-1)
    with pytest.raises(ConfigError, match="'li'"):
        body_mask(np.zeros((9, 9, 3)), (1, 1, 1), threshold="li")  # type: ignore[arg-type]


def test_abdominal_ct_loses_its_table(shared_dir: Path) -> None:
    image = nib.load(shared_dir / "data/B_ct_labels/CHAOS_CT_set3/ct.nii.gz")
    ct, spacing_mm = image.get_fdata(dtype=np.float32)[..., 28:33], image.header.get_zooms()
    mask = body_mask(ct, spacing_mm)
    liver = np.asanyarray(nib.load(shared_dir / "data/B_ct_labels/CHAOS_CT_set3/liver.nii.gz").dataobj)[..., 28:33] > 0

    assert mask[liver].all()
    assert 0.3 < mask.mean() < 0.5
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    tissue_rows = np.flatnonzero((ct > -400).any(axis=(0, 2)))
    assert rows.max() < tissue_rows.max() - 5 or rows.min() > tissue_rows.min() + 5, "the table is on one side"


def test_real_head_mr_and_ct_slices_agree(shared_dir: Path) -> None:
    folder = shared_dir / "data/A_mr_ct/SynthRAD2023_brain_slices_hu/Task1/brain/1BA014"
    for plane in ("axial", "coronal", "sagittal"):
        mr, ct = (nib.load(folder / plane / f"{name}.nii.gz") for name in ("mr", "ct"))
        spacing_mm = mr.header.get_zooms()
        from_mr = body_mask(mr.get_fdata(dtype=np.float32), spacing_mm, threshold="otsu")
        from_ct = body_mask(ct.get_fdata(dtype=np.float32), spacing_mm)
        # The CT reaches further down than the MR.
        covered = mr.get_fdata() > 0
        assert dice(from_mr & covered, from_ct & covered) > 0.93

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from monai_synth.data.phantom import LABELS, PhantomPatient, make_patient, write_demo_cohort
from monai_synth.errors import ConfigError

SOFT_TISSUE, BONE, CSF, GREY, WHITE, AIR, EYE = range(1, 8)
ROLES = ("mr", "ct", "mask", "labels")
IMAGES = ("mr", "ct", "labels", "mask", "affine")


@pytest.fixture(scope="module")
def patient() -> PhantomPatient:
    return make_patient(0, number=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return write_demo_cohort(tmp_path_factory.mktemp("demo"), num_patients=3, seed=0, voxel_mm=6.0)


def core(patient: PhantomPatient, label: int) -> np.ndarray:
    """Voxels of a label without those at its surface, which hold two tissues."""
    return ndimage.binary_erosion(patient.labels == label)


def rows(manifest) -> list[dict[str, str]]:
    with manifest.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_same_seed_and_number_give_the_same_patient():
    first, second = (make_patient(3, number=4, voxel_mm=6.0) for _ in range(2))
    for name in IMAGES:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("other", [{"seed": 1, "number": 1}, {"seed": 0, "number": 2}])
def test_another_seed_or_number_is_another_head(other):
    # Same grid size, so that only the head, its pose and its tissues can differ.
    first = make_patient(0, number=1, shape=(40, 40, 40))
    second = make_patient(**other, shape=(40, 40, 40))
    assert not np.allclose(first.affine, second.affine)
    assert abs(int(first.mask.sum()) - int(second.mask.sum())) > 20
    white = [np.median(p.mr[p.labels == WHITE]) for p in (first, second)]
    assert abs(np.log(white[0] / white[1])) > 0.02


def test_heads_of_one_cohort_differ_in_size_skull_and_ventricles():
    patients = [make_patient(0, number=number, voxel_mm=5.0) for number in range(1, 7)]
    volumes = np.array([[(p.labels == label).sum() * abs(np.linalg.det(p.affine[:3, :3])) for label in (BONE, CSF, AIR)]
                        for p in patients])  # fmt: skip
    assert (volumes.std(axis=0) / volumes.mean(axis=0) > 0.03).all()
    assert len({p.ct.shape for p in patients}) >= 4
    gain = [np.median(p.mr[p.labels == WHITE]) for p in patients]
    assert max(gain) / min(gain) > 1.5


def test_types_and_labels(patient):
    assert patient.mr.dtype == patient.ct.dtype == np.int16
    assert patient.labels.dtype == patient.mask.dtype == np.uint8
    assert patient.mr.shape == patient.ct.shape == patient.labels.shape == patient.mask.shape
    assert set(np.unique(patient.labels)) == set(LABELS)
    assert set(np.unique(patient.mask)) == {0, 1}


@pytest.mark.parametrize(
    ("label", "low_hu", "high_hu"),
    [(BONE, 350, 1600), (CSF, 0, 18), (GREY, 30, 46), (WHITE, 22, 34), (AIR, -1010, -900), (EYE, 0, 35)],
)
def test_median_hu_of_each_tissue(patient, label, low_hu, high_hu):
    assert low_hu < np.median(patient.ct[core(patient, label)]) < high_hu


def test_soft_tissue_holds_fat_and_muscle(patient):
    hu = patient.ct[core(patient, SOFT_TISSUE)]
    assert (np.abs(hu + 90) < 30).mean() > 0.1
    assert (np.abs(hu - 55) < 30).mean() > 0.3


def test_bone_reaches_the_hu_of_compact_bone_and_teeth(patient):
    assert 1100 < np.percentile(patient.ct[patient.labels == BONE], 95) < 1900
    assert patient.ct.max() > 1600
    assert patient.ct.min() >= -1024


def test_mr_has_the_contrast_of_t1_and_bone_is_as_dark_as_air(patient):
    signal = {label: np.median(patient.mr[core(patient, label)]) for label in (CSF, GREY, WHITE, AIR)}
    assert signal[WHITE] > 1.2 * signal[GREY] > 1.2 * signal[CSF] > 1.2 * signal[AIR]
    compact = (patient.labels == BONE) & (patient.ct > 1200)
    marrow = (patient.labels == BONE) & (patient.ct > 250) & (patient.ct < 450) & core(patient, BONE)
    assert np.median(patient.mr[compact]) < 0.35 * signal[WHITE]
    assert np.median(patient.mr[marrow]) > 0.8 * signal[WHITE]


def test_ct_noise_is_that_of_a_scanner(patient):
    noise = patient.ct[core(patient, WHITE)].std()
    assert 6 < noise < 18


def test_mask_is_the_labelled_head_with_its_cavities_in_one_piece(patient):
    np.testing.assert_array_equal(patient.mask > 0, patient.labels > 0)
    assert (patient.labels == AIR).sum() > 1000
    _, num_pieces = ndimage.label(patient.mask)
    pieces = np.bincount(ndimage.label(patient.mask)[0].ravel())[1:]
    assert num_pieces <= 3
    assert pieces.max() > 0.999 * pieces.sum()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_couch_is_in_the_ct_outside_the_mask_and_not_in_the_mr(number):
    patient = make_patient(0, number=number, voxel_mm=3.0)
    far = ~ndimage.binary_dilation(patient.mask, iterations=2)
    couch = far & (patient.ct > -700)
    assert couch.sum() > 300
    assert patient.ct[couch].max() < 0
    others = far & (patient.ct < -950)
    assert np.median(patient.mr[couch]) < 1.3 * np.median(patient.mr[others])
    # behind the head, in a world where y points to the face
    world_y = nib.affines.apply_affine(patient.affine, np.argwhere(couch))[:, 1]
    head_y = nib.affines.apply_affine(patient.affine, np.argwhere(patient.mask))[:, 1]
    assert np.median(world_y) < np.percentile(head_y, 5)


def test_grids_are_oblique_anisotropic_and_not_all_ras():
    patients = [make_patient(0, number=number, voxel_mm=6.0) for number in range(1, 9)]
    for p in patients:
        spacing = nib.affines.voxel_sizes(p.affine)
        assert spacing.max() / spacing.min() > 1.15
        cosines = np.abs(p.affine[:3, :3] / spacing)
        assert 0.97 < cosines.max(axis=0).min() < 0.99999
    orientations = {nib.aff2axcodes(p.affine) for p in patients}
    assert len(orientations) >= 3
    assert orientations != {("R", "A", "S")}
    assert any(size % 2 for p in patients for size in p.ct.shape)


def test_eyes_lie_in_front_and_ventricles_above_the_throat_in_world_coordinates():
    for number in range(1, 5):
        p = make_patient(0, number=number, voxel_mm=4.0)
        world = {
            label: nib.affines.apply_affine(p.affine, np.argwhere(p.labels == label)) for label in (WHITE, AIR, EYE)
        }
        assert world[EYE][:, 1].mean() > world[WHITE][:, 1].mean() + 40
        assert world[AIR][:, 2].mean() < world[WHITE][:, 2].mean() - 30
        assert np.ptp(world[EYE][:, 0]) > 60  # one on each side


@pytest.mark.parametrize("number", [1, 2])
def test_the_same_head_comes_out_at_another_voxel_size(number):
    coarse, fine = (make_patient(0, number=number, voxel_mm=size) for size in (6.0, 4.0))
    volumes = [p.mask.sum() * abs(np.linalg.det(p.affine[:3, :3])) for p in (coarse, fine)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)
    centres = [nib.affines.apply_affine(p.affine, np.argwhere(p.mask)).mean(axis=0) for p in (coarse, fine)]
    np.testing.assert_allclose(centres[0], centres[1], atol=3.0)


@pytest.mark.parametrize("shape", [(31, 37, 25), (20, 20, 20)])
def test_shape_is_the_shape_of_the_arrays(shape):
    patient = make_patient(5, number=3, shape=shape)
    assert patient.ct.shape == shape
    assert patient.mask.mean() > 0.15


def test_manifest_has_the_contract_columns_and_relative_paths(cohort):
    table = rows(cohort)
    assert list(table[0]) == ["patient_id", "case_id", "split", *ROLES]
    assert [row["patient_id"] for row in table] == ["P001", "P002", "P003"]
    assert {row["split"] for row in table} == {"train", "val", "test"}
    assert table[0]["mr"] == "P001/mr.nii.gz"
    assert all((cohort.parent / row[role]).is_file() for row in table for role in ROLES)


def test_files_hold_the_patient_on_one_grid_and_say_phantom(cohort):
    for number, row in enumerate(rows(cohort), start=1):
        patient = make_patient(0, number=number, voxel_mm=6.0)
        for role in ROLES:
            image = nib.load(cohort.parent / row[role])
            expected = getattr(patient, role)
            assert image.get_data_dtype() == expected.dtype
            assert bytes(image.header["descrip"]).startswith(b"phantom")
            np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
            np.testing.assert_allclose(image.affine, patient.affine, atol=1e-4)
            np.testing.assert_allclose(image.get_qform(), patient.affine, atol=1e-3)


def test_a_patient_does_not_depend_on_the_size_of_the_cohort(cohort, tmp_path):
    larger = write_demo_cohort(tmp_path, num_patients=4, seed=0, voxel_mm=6.0)
    assert rows(larger)[:3] == rows(cohort)
    for role in ROLES:
        first, second = (np.asanyarray(nib.load(m.parent / f"P003/{role}.nii.gz").dataobj) for m in (cohort, larger))
        np.testing.assert_array_equal(first, second)


def test_writing_twice_gives_the_same_bytes(cohort, tmp_path):
    again = write_demo_cohort(tmp_path, num_patients=1, seed=0, voxel_mm=6.0)
    for role in ROLES:
        assert (again.parent / f"P001/{role}.nii.gz").read_bytes() == (
            cohort.parent / f"P001/{role}.nii.gz"
        ).read_bytes()


def test_twelve_patients_are_split_eight_two_two(tmp_path):
    table = rows(write_demo_cohort(tmp_path, num_patients=12, seed=0, voxel_mm=12.0))
    splits = [row["split"] for row in table]
    assert {name: splits.count(name) for name in set(splits)} == {"train": 8, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"voxel_mm": 0.0}, "voxel_mm"),
        ({"voxel_mm": 60.0}, "voxel_mm"),
        ({"shape": (40, 40, 4)}, "shape"),
        ({"number": 0}, "number"),
    ],
)
def test_impossible_patients_are_refused_by_name(arguments, named):
    with pytest.raises(ConfigError, match=named):
        make_patient(0, **arguments)


def test_a_cohort_of_nobody_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_patients"):
        write_demo_cohort(tmp_path, num_patients=0)

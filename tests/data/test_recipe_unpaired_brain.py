"""Label maps and MR of different people, from four folders, as one manifest."""

from pathlib import Path

import pytest

from monai_synth.data.recipes import build_manifest
from monai_synth.errors import ManifestError


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_every_row_is_in_one_domain(tmp_path: Path) -> None:
    touch(tmp_path, "SynthSeg_label_maps/training_seg_01.nii.gz", "ABIDE_LiviaNET/sub-01/T1.nii.gz")
    touch(tmp_path, "ABIDE_LiviaNET/sub-01/labels.nii.gz")  # other ids: not taken
    touch(tmp_path, "MNE_freesurfer/ecog/T1.nii.gz", "MNE_freesurfer/ecog/aseg.nii.gz")
    touch(tmp_path, "OASIS_scan/vol.nii.gz", "OASIS_scan/seg.nii.gz")
    manifest = build_manifest("unpaired_brain", tmp_path, tmp_path / "cohort.csv")
    table = manifest.table.set_index("patient_id").fillna("")

    assert table["labels"].to_dict() == {
        "training_seg_01": "SynthSeg_label_maps/training_seg_01.nii.gz",
        "ecog": "MNE_freesurfer/ecog/aseg.nii.gz",
        "OASIS_scan": "OASIS_scan/seg.nii.gz",
        "sub-01": "",
    }
    assert table.loc[table["t1"] != "", "t1"].to_dict() == {"sub-01": "ABIDE_LiviaNET/sub-01/T1.nii.gz"}
    assert table.loc["ecog", "own_t1"] == "MNE_freesurfer/ecog/T1.nii.gz"
    assert len(manifest.with_roles("labels")) == 3


def test_an_image_without_its_label_map_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "ABIDE_LiviaNET/sub-01/T1.nii.gz", "MNE_freesurfer/ecog/T1.nii.gz")
    with pytest.raises(ManifestError, match="ecog"):
        build_manifest("unpaired_brain", tmp_path, tmp_path / "cohort.csv")


def test_the_real_folders(shared_dir: Path, tmp_path: Path) -> None:
    root = shared_dir / "data" / "C_mr_labels"
    if not root.is_dir():
        pytest.skip("the real label maps are not here")
    manifest = build_manifest("unpaired_brain", root, tmp_path / "cohort.csv")
    assert (len(manifest.with_roles("labels")), len(manifest.with_roles("t1"))) == (4, 5)

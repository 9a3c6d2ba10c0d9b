from pathlib import Path

import pytest
import yaml

from monai_synth.data.manifest import read_manifest
from monai_synth.data.manifest_check import check_manifest
from monai_synth.data.recipes import build_manifest, find_files, list_recipes, load_recipe
from monai_synth.errors import ManifestError

OWN = {
    "name": "own",
    "description": "d",
    "source": "local",
    "roles": {"t1": "{patient_id}/{date}/t1_*.nii.gz", "seg": ["{patient_id}/{date}/seg.nii.gz"]},
    "case_id": "{patient_id}_{date}",
    "patterns": {"date": r"\d{4}"},
    "meta": {"site": {"from": "{patient_id}", "regex": r"([A-Z])\d+"}, "meta_date": "{date}"},
}

WITHOUT_DOI = {"image_mask_folders", "unpaired_brain"}  # any cohort in these folders; parts of several repositories


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write_recipe(folder: Path, **changes: object) -> Path:
    file = folder / "own.yaml"
    content = {key: value for key, value in (OWN | changes).items() if value is not None}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.fixture
def synthrad(tmp_path):
    root = tmp_path / "synthrad"
    for task, region, patient, role in (
        ("1", "brain", "1BA001", "mr"),
        ("1", "pelvis", "1PC080", "mr"),
        ("2", "brain", "2BB003", "cbct"),
    ):
        touch(root, *(f"Task{task}/{region}/{patient}/{name}.nii.gz" for name in (role, "ct", "mask")))
    touch(root, "Task1/brain/overview/1BA001_train.png", "Task1/brain/overview/1_brain_train.xlsx")
    return root


def test_package_holds_the_recipes():
    assert {"synthrad2023", "synthrad2023_slices", "openkbp"} <= set(list_recipes())
    for name in list_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.source.startswith("doi:") or name in WITHOUT_DOI


def test_synthrad_with_both_tasks(synthrad):
    manifest = build_manifest("synthrad2023", synthrad, synthrad / "manifest.csv")
    assert list(manifest.table.columns) == ["patient_id", "case_id", "site", "meta_region", "mr", "cbct", "ct", "mask"]
    assert manifest.table["case_id"].tolist() == ["1BA001", "1PC080", "2BB003"]
    assert manifest.table["site"].tolist() == ["A", "C", "B"]
    assert manifest.table["mr"].isna().tolist() == [False, False, True]
    assert not manifest.needs_data_root
    assert not check_manifest(read_manifest(manifest.file), deep=False)


def test_role_that_no_case_has_is_no_column(synthrad):
    (synthrad / "Task2").rename(synthrad / "elsewhere")
    assert build_manifest("synthrad2023", synthrad, synthrad / "manifest.csv").roles == ("mr", "ct", "mask")


@pytest.mark.parametrize(
    ("out", "needs_data_root"),
    [
        ("manifest.csv", False),
        ("synthrad/manifest.csv", False),
        ("x/manifest.csv", True),
        ("synthrad/Task1/manifest.csv", True),
    ],
)
def test_paths_can_be_read_from_wherever_the_csv_lies(synthrad, tmp_path, out, needs_data_root):
    (tmp_path / "x").mkdir()
    manifest = build_manifest("synthrad2023", synthrad, tmp_path / out)
    assert manifest.needs_data_root is needs_data_root
    again = read_manifest(manifest.file, data_root=synthrad if needs_data_root else None)
    assert again.cases(ct="ct") == manifest.cases(ct="ct")
    assert all(Path(case["ct"]).is_file() for case in again.cases(ct="ct"))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (
            "Task1/brain/1BA001/ct.nii.gz",
            ["1 of 3 cases", "1BA001: no 'ct'", "found Task1/brain/1BA001/mr.nii.gz", "optional_roles"],
        ),
        ("Task1/brain/1BA001/mr.nii.gz", ["1BA001: none of mr | cbct"]),
        ("Task2/brain/2BB003/cbct.nii.gz", ["2BB003: none of mr | cbct"]),
    ],
)
def test_half_a_pair_is_refused(synthrad, lost, words):
    (synthrad / lost).unlink()
    with pytest.raises(ManifestError) as error:
        build_manifest("synthrad2023", synthrad, synthrad / "manifest.csv")
    assert all(word in str(error.value) for word in words)
    assert not (synthrad / "manifest.csv").exists()


def test_finding_nothing_says_what_was_looked_for(synthrad):
    with pytest.raises(ManifestError) as error:
        build_manifest("synthrad2023", synthrad / "Task1", synthrad / "manifest.csv")
    assert "mr: Task1/{region}/{patient_id}/mr.nii.gz" in str(error.value)
    assert "2 entries below the root: brain, pelvis" in str(error.value)
    with pytest.raises(ManifestError, match="is not a folder"):
        build_manifest("synthrad2023", synthrad / "absent", synthrad / "manifest.csv")


def test_existing_manifest_is_kept(synthrad):
    file = build_manifest("synthrad2023", synthrad, synthrad / "manifest.csv").file
    with pytest.raises(ManifestError, match="may hold splits"):
        build_manifest("synthrad2023", synthrad, file)
    assert len(build_manifest("synthrad2023", synthrad, file, overwrite=True)) == 3


def test_own_recipe(tmp_path, caplog):
    touch(tmp_path, "A1/2001/t1_x.nii.gz", "A1/2001/seg.nii.gz", "A1/2002/t1_y.nii.gz", "A1/draft/t1_z.nii.gz")
    recipe = write_recipe(tmp_path, optional_roles=["seg"])
    manifest = build_manifest(recipe, tmp_path, tmp_path / "manifest.csv")
    assert manifest.table["case_id"].tolist() == ["A1_2001", "A1_2002"]
    assert manifest.patients == {"A1"}
    assert manifest.table["meta_date"].tolist() == ["2001", "2002"]
    assert manifest.table["t1"][1] == "A1/2002/t1_y.nii.gz"
    assert "A1/draft/t1_z.nii.gz" in caplog.text


def test_two_files_for_one_place(tmp_path):
    touch(tmp_path, "A1/2001/t1_x.nii.gz", "A1/2001/t1_y.nii.gz", "A1/2001/seg.nii.gz")
    with pytest.raises(ManifestError, match=r"'A1_2001' has two values for 't1'.*t1_x.*t1_y"):
        build_manifest(write_recipe(tmp_path), tmp_path, tmp_path / "manifest.csv")


def test_metadata_that_does_not_match(tmp_path):
    touch(tmp_path, "a1/2001/t1_x.nii.gz", "a1/2001/seg.nii.gz")
    with pytest.raises(ManifestError, match="'site': 'a1' does not match"):
        build_manifest(write_recipe(tmp_path), tmp_path, tmp_path / "manifest.csv")


def test_names_are_literal_and_repeated_fields_agree(tmp_path):
    touch(tmp_path, "p1/p1.nii", "p1/p2.nii", "p1/p1xnii", "p1/p1.nii.gz")
    assert [path for path, _ in find_files("{p}/{p}.nii", tmp_path, patterns={})] == ["p1/p1.nii"]


def test_folders_are_found_with_a_slash(tmp_path):
    touch(tmp_path, "p1/CT/1.dcm", "p2/CT")
    assert list(find_files("{p}/CT/", tmp_path, patterns={})) == [("p1/CT", {"p": "p1"})]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "'colour' is unknown"),
        ({"source": None}, "'source' is missing"),
        ({"roles": ["t1"]}, "not a mapping"),
        ({"roles": {"split": "{patient_id}/{date}"}}, "reserved column"),
        ({"roles": {"t1": 3}}, "role 't1' is 3"),
        ({"roles": {"t1": "../{patient_id}/{date}"}}, "leaves the root"),
        ({"roles": {"t1": "{patient_id}.nii"}}, "lacks the field 'date'"),
        ({"optional_roles": ["t2"]}, "'t2' is not one of the roles t1, seg"),
        ({"meta": {"scanner": "x"}}, "is not metadata"),
        ({"meta": {"site": {"from": "{date}"}}}, "meta column 'site'"),
        ({"meta": ["site"]}, "not a dict"),
        ({"patterns": {"date": "("}}, "no regular expression"),
    ],
)
def test_recipe_that_cannot_be_followed(tmp_path, changes, words):
    with pytest.raises(ManifestError, match=words):
        load_recipe(write_recipe(tmp_path, **changes))


def test_recipe_that_is_none(tmp_path):
    with pytest.raises(ManifestError, match=r"'absent' is neither .* synthrad2023"):
        load_recipe("absent")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ManifestError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ManifestError, match="not a mapping"):
        load_recipe(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("recipe", "folder", "num_cases"),
    [
        ("synthrad2023_slices", "A_mr_ct/SynthRAD2023_brain_slices_hu", 90),
        ("synthrad2023", "A_mr_ct/MRI-DIR_meatphantom", 1),
        ("openkbp", "B_ct_labels/OpenKBP_head_neck", 20),
    ],
)
def test_real_cohorts_are_built_read_and_sound(shared_dir, tmp_path, recipe, folder, num_cases):
    root = shared_dir / "data" / folder
    manifest = build_manifest(recipe, root, tmp_path / "manifest.csv")
    assert manifest.needs_data_root
    again = read_manifest(manifest.file, data_root=root)
    assert len(again) == len(again.patients) == num_cases
    assert check_manifest(again) == []

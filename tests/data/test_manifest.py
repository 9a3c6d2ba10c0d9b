from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_synth.data.manifest import Manifest, manifest_from_table, read_manifest
from monai_synth.errors import LeakageError, ManifestError

SPLIT_CSV = (
    "patient_id,case_id,split,mr,ct\n000,a,train,a/mr.nii,a/ct.nii\n000,b,train,b/mr.nii,\n1,c,test,c/mr.nii,c/ct.nii\n"
)
FOLD_CSV = "patient_id,case_id,split,fold,mr\na,a,train,0,a\nb,b,train,1,b\nc,c,val,1,c\nd,d,test,,d\n"


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "manifest.csv"
    file.write_bytes(text.encode(encoding))
    return file


def read(folder: Path, text: str) -> Manifest:
    return read_manifest(write(folder, text))


def ids(manifest: Manifest) -> list[str]:
    return manifest.table["case_id"].tolist()


def test_ids_stay_text_and_empty_cells_are_missing(tmp_path):
    manifest = read(tmp_path, SPLIT_CSV)
    assert len(manifest) == 3
    assert manifest.patients == {"000", "1"}
    assert manifest.roles == ("mr", "ct")
    assert manifest.splits == ("train", "test")
    assert manifest.root == tmp_path
    assert manifest.table["ct"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("word", ["NA", "nan", "null", "None", "007", "1e5"])
def test_words_that_look_like_numbers_or_gaps_stay_ids(tmp_path, word):
    assert read(tmp_path, f"patient_id,case_id,mr\n{word},{word},m\n").patients == {word}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_spreadsheets_write(tmp_path, separator, encoding, newline):
    rows = [
        ["patient_id", "case_id", "fold", "site"],
        ["ä", "ä", "0", f'"x{separator}y"'],
        ["", "", "", ""],
        ["b", "b", "1.0", ""],
    ]
    manifest = read_manifest(write(tmp_path, newline.join(separator.join(row) for row in rows), encoding))
    assert ids(manifest) == ["ä", "b"]
    assert manifest.table["site"][0] == f"x{separator}y"
    assert manifest.folds == (0, 1)
    assert manifest.table["fold"].dtype == "Int64"


def test_metadata_columns_are_no_roles(tmp_path):
    manifest = read(tmp_path, "patient_id,case_id,site,age,sex,provenance,meta_x,t1\na,a, A ,3,f,/abs,../x,t\n")
    assert manifest.roles == ("t1",)
    assert manifest.table["provenance"][0] == "/abs"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        (" \n", ["is empty"]),
        ("patient_id,case_id,mr\n", ["no case"]),
        ("Patient ID,case_id\na,b\n", ["'patient_id' is missing", "rename 'Patient ID'"]),
        ("patient_id,mr\na,b\n", ["'case_id' is missing", "add it"]),
        (",patient_id,case_id\n0,a,b\n", ["column 1", "''"]),
        ("patient_id,case_id,mr,mr\na,b,c,d\n", ["'mr' is there twice"]),
        ("patient_id,case_id,mr \na,b,c\n", ["'mr '", "blanks"]),
        ("patient_id,case_id,mr\na,b\n", ["line 2", "2 fields where the header has 3"]),
        ('patient_id,case_id,mr\na,b,"c\n', ["quotes"]),
        ("patient_id,case_id,mr\na,x,m\nb,x,n\n", ["line 2", "line 3", "'x'", "unique"]),
        ("patient_id,case_id,mr\n,x,m\n", ["line 2", "patient_id", "empty"]),
        ("patient_id,case_id,mr\na, x,m\n", ["' x'", "blank"]),
        ("patient_id,case_id,mr\na,x,m \n", ["'m '", "blank"]),
        ("patient_id,case_id,mr\na,../x,m\n", ["'../x'", "output files"]),
        ("patient_id,case_id,mr\na,..,m\n", ["'..'", "output files"]),
        ("patient_id,case_id,split,mr\na,x,training,m\n", ["'training'", "train, val or test"]),
        ("patient_id,case_id,split,mr\na,x,train,m\nb,y,,m\n", ["line 3", "'split'", "empty"]),
        ("patient_id,case_id,fold,mr\na,x,-1,m\n", ["'-1'", ">= 0"]),
        ("patient_id,case_id,fold,mr\na,x,0.5,m\n", ["'0.5'", ">= 0"]),
        ("patient_id,case_id,fold,mr\na,x,0,m\nb,y,,m\n", ["y have no fold"]),
        ("patient_id,case_id,mr\na,x,/data/m\n", ["'/data/m'", "data_root"]),
        ("patient_id,case_id,mr\na,x,C:/m\n", ["'C:/m'", "relative"]),
        ("patient_id,case_id,mr\na,x,~/m\n", ["'~/m'", "relative"]),
        ("patient_id,case_id,mr\na,x,a\\m\n", ["'/'"]),
        ("patient_id,case_id,mr\na,x,../../m\n", ["'../../m'", "leave their root"]),
        ("patient_id,case_id,mr\na,x,m/..\n", ["'m/..'", "leave their root"]),
        ('patient_id,case_id,mr\na,x,"m\nn"\n', ["control characters"]),
    ],
)
def test_error_names_thing_value_and_rule(tmp_path, text, words):
    with pytest.raises(ManifestError) as error:
        read(tmp_path, text)
    assert "manifest.csv" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_dots_within_a_name_are_fine(tmp_path):
    assert read(tmp_path, "patient_id,case_id,mr\na.1,a..b,x/a..b/m.nii\n").roles == ("mr",)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(write(tmp_path, SPLIT_CSV, "utf-16"))
    with pytest.raises(ManifestError, match="is not a folder"):
        read_manifest(write(tmp_path, SPLIT_CSV), data_root=tmp_path / "absent")


@pytest.mark.parametrize(("column", "sides"), [("split", ("train", "test")), ("fold", ("0", "1"))])
def test_patient_on_two_sides_is_leakage(tmp_path, column, sides):
    text = f"patient_id,case_id,{column},mr\nbob,x,{sides[0]},m\neve,z,{sides[0]},m\nbob,y,{sides[1]},m\n"
    with pytest.raises(LeakageError, match=r"1 patient.*'bob'") as error:
        read(tmp_path, text)
    assert "eve" not in str(error.value)


def test_parts_by_split(tmp_path):
    manifest = read(tmp_path, SPLIT_CSV)
    assert ids(manifest.part("train")) == ["a", "b"]
    assert ids(manifest.part("test")) == ["c"]
    assert ids(manifest.part("all")) == ["a", "b", "c"]
    with pytest.raises(ManifestError, match=r"'val' .* is empty; there are splits train, test"):
        manifest.part("val")
    with pytest.raises(ManifestError, match="train, val, test and all"):
        manifest.part("validation")
    with pytest.raises(ManifestError, match="no folds"):
        manifest.part("train", fold=0)


def test_parts_by_fold_leave_the_test_patients_out(tmp_path):
    manifest = read(tmp_path, FOLD_CSV)
    assert ids(manifest.part("train", fold=0)) == ["b", "c"]
    assert ids(manifest.part("val", fold=0)) == ["a"]
    assert ids(manifest.part("test", fold=0)) == ["d"]
    assert set(manifest.part("train", fold=0).table["split"]) == {"train"}
    assert set(manifest.part("val", fold=1).table["split"]) == {"val"}
    with pytest.raises(ManifestError, match=r"Fold 7 .* has 0, 1"):
        manifest.part("val", fold=7)


def test_folds_alone(tmp_path):
    manifest = read(tmp_path, "patient_id,case_id,fold,mr\na,a,0,m\nb,b,1,n\n")
    assert ids(manifest.part("train", fold=0)) == ["b"]
    assert manifest.part("val", fold=0).cases(image="mr")[0]["split"] == "val"
    assert len(manifest.part("test", fold=0)) == 0
    with pytest.raises(ManifestError, match=r"pass a fold \(0, 1\)"):
        manifest.part("train")


def test_a_cohort_without_split_can_be_read_but_has_no_parts(tmp_path):
    manifest = read(tmp_path, "patient_id,case_id,split,fold,mr\na,a,,,m\n")
    assert "split" not in manifest.table
    assert manifest.cases(image="mr")[0]["split"] == ""
    with pytest.raises(ManifestError, match="manifest split"):
        manifest.part("train")


def test_cases_have_absolute_paths(tmp_path):
    manifest = read(tmp_path, SPLIT_CSV).part("test")
    assert manifest.cases(condition=["mr", "ct"], target="ct") == [
        {
            "patient_id": "1",
            "case_id": "c",
            "split": "test",
            "condition": [str(tmp_path / "c/mr.nii"), str(tmp_path / "c/ct.nii")],
            "target": str(tmp_path / "c/ct.nii"),
        }
    ]


def test_cases_name_what_is_missing(tmp_path):
    manifest = read(tmp_path, SPLIT_CSV)
    with pytest.raises(ManifestError, match=r"'pet' is not a column .* mr, ct"):
        manifest.cases(condition="pet")
    with pytest.raises(ManifestError, match="'split' is not a column"):
        manifest.cases(condition="split")
    with pytest.raises(ManifestError, match=r"1 of 3 cases .* no 'ct' \(b\)"):
        manifest.cases(target="ct")
    with pytest.raises(ManifestError, match="'split' is taken"):
        manifest.cases(split="mr")
    assert ids(manifest.with_roles("ct")) == ["a", "c"]
    assert len(manifest.with_roles("ct").cases(target="ct")) == 2


def test_data_root(tmp_path):
    (tmp_path / "images").mkdir()
    manifest = read_manifest(write(tmp_path, SPLIT_CSV), data_root=tmp_path / "images")
    assert manifest.needs_data_root
    assert manifest.cases(image="mr")[0]["image"] == str(tmp_path / "images/a/mr.nii")


def test_write_keeps_every_byte_and_leaves_nothing_else(tmp_path):
    file = write(tmp_path, SPLIT_CSV)
    written = read_manifest(file).write(tmp_path / "copy.csv")
    assert written.file.read_bytes() == file.read_bytes()
    assert not written.needs_data_root
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.csv", "manifest.csv"]
    (tmp_path / "below").mkdir()
    assert read_manifest(file).write(tmp_path / "below" / "copy.csv").needs_data_root
    with pytest.raises(ManifestError, match="cannot be written"):
        read_manifest(file).write(tmp_path / "absent" / "copy.csv")


names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and not set(text) & set("/\\") and text not in (".", "..") and text[0] != "~"
)


@settings(max_examples=50, deadline=None)
@given(
    cases=st.lists(st.tuples(names, names, st.one_of(st.just(""), names)), min_size=1, unique_by=lambda case: case[1])
)
def test_written_is_read_back(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("round_trip")
    table = pd.DataFrame(cases, columns=["patient_id", "case_id", "site"])
    table["mr"] = [f"images/{case}" for case in table["case_id"]]
    manifest = manifest_from_table(table, file=folder / "manifest.csv")
    again = read_manifest(manifest.write(folder / "manifest.csv").file)
    pd.testing.assert_frame_equal(again.table, manifest.table)


def test_fifty_thousand_rows_are_read(tmp_path):
    rows = "".join(f"P{i // 2},C{i},train,A,P{i}/mr.nii.gz,P{i}/ct.nii.gz,P{i}/mask.nii.gz\n" for i in range(50_000))
    file = write(tmp_path, "patient_id,case_id,split,site,mr,ct,mask\n" + rows)
    assert len(read_manifest(file).patients) == 25_000


def test_the_example_is_valid(repository):
    manifest = read_manifest(repository / "data_manifests" / "example.csv")
    assert manifest.splits == ("train", "val", "test")
    assert "001" in manifest.patients
    assert manifest.roles == ("mr", "ct", "mask")

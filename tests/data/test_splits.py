from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_synth.data.manifest import Manifest, manifest_from_table
from monai_synth.data.splits import require_files, split_folds, split_fractions
from monai_synth.errors import ManifestError

THIRDS = {"train": 0.5, "val": 0.25, "test": 0.25}


def cohort(cases_of: dict[str, int], sites: str = "AB", **columns: list[str]) -> Manifest:
    rows = [
        (patient, f"{patient}_{k}", sites[n % len(sites)])
        for n, patient in enumerate(cases_of)
        for k in range(cases_of[patient])
    ]
    table = pd.DataFrame(rows, columns=["patient_id", "case_id", "site"]).assign(**columns)
    table["mr"] = table["case_id"] + ".nii"
    return manifest_from_table(table, file="manifest.csv")


def place_of(manifest: Manifest, column: str) -> dict[str, object]:
    return dict(zip(manifest.table["patient_id"], manifest.table[column], strict=True))


def shuffled(manifest: Manifest) -> Manifest:
    return manifest_from_table(manifest.table.sample(frac=1, random_state=3), file=manifest.file)


cohorts = st.dictionaries(st.text("abc019-_", min_size=1, max_size=5), st.integers(1, 4), min_size=4, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    cases_of=cohorts, seed=st.integers(0, 2**40), stratify=st.sampled_from([None, "site"]), num_folds=st.integers(2, 4)
)
def test_laws_of_folds(cases_of, seed, stratify, num_folds):
    manifest = cohort(cases_of)
    result = split_folds(manifest, num_folds=num_folds, seed=seed, stratify=stratify)
    pd.testing.assert_frame_equal(result.table.drop(columns="fold"), manifest.table)  # all rows, nothing else touched
    assert result.table.groupby("patient_id")["fold"].nunique().max() == 1  # no patient on two sides
    sizes = Counter(place_of(result, "fold").values())
    assert sorted(sizes) == list(range(num_folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    again = split_folds(shuffled(manifest), num_folds=num_folds, seed=seed, stratify=stratify)
    assert place_of(again, "fold") == place_of(result, "fold")


@settings(max_examples=60, deadline=None)
@given(cases_of=cohorts, seed=st.integers(0, 2**40), stratify=st.sampled_from([None, "site"]))
def test_laws_of_fractions(cases_of, seed, stratify):
    manifest = cohort(cases_of)
    result = split_fractions(manifest, fractions=THIRDS, seed=seed, stratify=stratify)
    pd.testing.assert_frame_equal(result.table.drop(columns="split"), manifest.table)
    assert result.table.groupby("patient_id")["split"].nunique().max() == 1
    sizes = Counter(place_of(result, "split").values())
    assert sum(sizes.values()) == len(cases_of)
    assert all(abs(sizes[name] - share * len(cases_of)) < 1 for name, share in THIRDS.items())
    again = split_fractions(shuffled(manifest), fractions=THIRDS, seed=seed, stratify=stratify)
    assert place_of(again, "split") == place_of(result, "split")


def test_the_seed_decides():
    manifest = cohort({f"p{n}": 1 for n in range(40)})
    results = [place_of(split_fractions(manifest, fractions=THIRDS, seed=seed), "split") for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]


def test_result_is_the_same_on_every_machine():
    result = split_folds(cohort({f"p{n}": 1 for n in range(8)}), num_folds=4, seed=0)
    assert result.table["fold"].tolist() == [0, 3, 0, 1, 2, 3, 2, 1]  # rank of sha256('0:p<n>') modulo 4


@pytest.mark.parametrize("sites", ["AB", "AAAB", "AAAAAAAAABBBBC"])
def test_strata_are_spread(sites):
    manifest = cohort({f"p{n:03}": 1 + n % 3 for n in range(140)}, sites)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    by_split = split_fractions(manifest, fractions=shares, seed=5, stratify="site").table.drop_duplicates("patient_id")
    by_fold = split_folds(manifest, num_folds=5, seed=5, stratify="site").table.drop_duplicates("patient_id")
    for _, group in by_split.groupby("site"):
        assert all(abs((group["split"] == name).sum() - share * len(group)) <= 1 for name, share in shares.items())
    for _, group in by_fold.groupby("site"):
        sizes = group["fold"].value_counts()
        assert sizes.max() - sizes.min() <= 1


def test_a_patient_counts_with_the_value_of_most_cases():
    values = ["x", "y", "y"] * 10 + ["x", "x", "y"] * 10
    manifest = cohort({f"p{n:02}": 3 for n in range(20)}, meta_kind=values)
    result = split_folds(manifest, num_folds=2, seed=1, stratify="meta_kind").table
    majority = result.groupby("patient_id")["meta_kind"].agg(lambda kinds: kinds.mode()[0])
    folds = result.drop_duplicates("patient_id").set_index("patient_id")["fold"]
    assert pd.crosstab(majority, folds).to_numpy().tolist() == [[5, 5], [5, 5]]


def test_test_patients_stay_out_of_the_folds():
    manifest = split_fractions(cohort({f"p{n}": 2 for n in range(20)}), fractions=THIRDS, seed=0)
    result = split_folds(manifest, num_folds=3, seed=0)
    assert result.table["fold"].isna().tolist() == (result.table["split"] == "test").tolist()
    assert result.part("val", fold=0).patients.isdisjoint(result.part("train", fold=0).patients)
    with pytest.raises(ManifestError, match="Remove the column 'fold'"):
        split_fractions(result, fractions=THIRDS, seed=0)


def test_a_new_split_replaces_the_old_one_in_place():
    manifest = split_fractions(cohort({f"p{n}": 1 for n in range(20)}), fractions=THIRDS, seed=0)
    again = split_fractions(manifest, fractions={"train": 1.0}, seed=0)
    assert list(again.table.columns) == ["patient_id", "case_id", "split", "site", "mr"]
    assert again.splits == ("train",)


def test_written_splits_are_read_back(tmp_path):
    manifest = split_folds(
        split_fractions(cohort({"007": 2, "b": 1, "c": 1, "d": 3}), fractions=THIRDS, seed=0), num_folds=2, seed=0
    )
    again = manifest_from_table(
        pd.read_csv(manifest.write(tmp_path / "m.csv").file, dtype=str), file=tmp_path / "m.csv"
    )
    pd.testing.assert_frame_equal(again.table, manifest.table)


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ({"train": 0.98, "test": 0.02}, "'test' gets none of the 4 patients .* share of 0.25"),
        ({"train": 0.5, "val": 0.4}, "sum 0.9"),
        ({"train": 1.5, "val": -0.5}, "lies in 0 to 1"),
        ({"train": float("nan")}, "lies in 0 to 1"),
        ({"training": 1.0}, "'training'"),
    ],
)
def test_fractions_that_do_not_fit(fractions, words):
    with pytest.raises(ManifestError, match=words):
        split_fractions(cohort({"a": 5, "b": 1, "c": 1, "d": 1}), fractions=fractions, seed=0)


@pytest.mark.parametrize("num_folds", [0, 1, 5])
def test_folds_that_do_not_fit(num_folds):
    with pytest.raises(ManifestError, match=f"{num_folds} folds cannot be made of the 4 patients"):
        split_folds(cohort({"a": 5, "b": 1, "c": 1, "d": 1}), num_folds=num_folds, seed=0)


def test_stratify_names_the_columns():
    with pytest.raises(ManifestError, match=r"'scanner' .* has site, mr"):
        split_folds(cohort({"a": 1, "b": 1}), num_folds=2, seed=0, stratify="scanner")


def test_a_root_without_the_files_is_refused_with_the_way_out(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    table = cohort({"a": 1, "b": 2}).table
    for cell in table["mr"]:
        (data / cell).touch()
    table.loc[0, "mr"] = pd.NA  # a case may lack a role
    beside = manifest_from_table(table, file=tmp_path / "m.csv")
    with pytest.raises(ManifestError, match=rf"2 of 2 files .* not below {tmp_path} \(first: b_0.nii\).*--data-root"):
        require_files(beside)
    require_files(manifest_from_table(table, file=tmp_path / "m.csv", data_root=data))
    within = manifest_from_table(table, file=data / "m.csv", data_root=tmp_path)
    with pytest.raises(ManifestError, match=f"all below {data}, .* leave --data-root out"):
        require_files(within)
    (data / "b_1.nii").unlink()
    with pytest.raises(ManifestError, match="1 of 2 files"):
        require_files(manifest_from_table(table, file=data / "m.csv"))

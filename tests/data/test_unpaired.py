"""Targets of other patients, drawn reproducibly."""

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import DataLoader, DistributedSampler

from monai_synth.data.manifest import Manifest, manifest_from_table
from monai_synth.data.slices import SliceDataset
from monai_synth.data.unpaired import UnpairedDataset, separate_patients
from monai_synth.errors import ConfigError, ManifestError
from monai_synth.objectives.pairs import refuse_unpaired

# Patients out of order, one with two cases, with 1 to 4 slices.
PATIENTS = ("p2", "p0", "p1", "p0", "p3")
DEPTHS = (3, 2, 4, 1, 2)


def make_side(
    key: str, patients: tuple[str, ...] = PATIENTS, depths: tuple[int, ...] = DEPTHS, **options: Any
) -> SliceDataset:
    """Every value of a slice says where it is from: 100 x case + slice, negative for targets."""
    data = []
    for case, (patient, depth) in enumerate(zip(patients, depths, strict=True)):
        place = (100.0 * case + torch.arange(depth)) * (1 if key == "condition" else -1)
        volume = place.expand(1, 4, 5, depth)
        data.append(
            {"case_id": f"{patient}-{case}", "patient_id": patient, key: volume, "mask": torch.ones(1, 4, 5, depth)}
        )
    return SliceDataset(data, dict, keys=(key, "mask"), **options)


@pytest.fixture
def dataset() -> UnpairedDataset:
    return UnpairedDataset(make_side("condition"), make_side("target"))


def epoch_of(dataset: UnpairedDataset, epoch: int, **options: Any) -> list[tuple[str, int, str, int]]:
    dataset.set_epoch(epoch)
    return [
        pair
        for batch in DataLoader(dataset, batch_size=2, **options)
        for pair in zip(
            batch["case_id"],
            batch["slice_index"].tolist(),
            batch["target_case_id"],
            batch["target_slice_index"].tolist(),
            strict=True,
        )
    ]


def test_items_hold_what_their_ids_say(dataset: UnpairedDataset) -> None:
    assert len(dataset) == sum(DEPTHS)
    for item in dataset:
        case, place = int(item["case_id"].split("-")[1]), item["slice_index"]
        target_case, target_place = int(item["target_case_id"].split("-")[1]), item["target_slice_index"]
        assert torch.equal(item["condition"], torch.full((1, 4, 5), 100.0 * case + place))
        assert torch.equal(item["target"], torch.full((1, 4, 5), -100.0 * target_case - target_place))
        assert item["mask"].shape == item["target_mask"].shape == (1, 4, 5)
    assert set(item) == {
        "condition", "mask", "case_id", "patient_id", "slice_index",
        "target", "target_mask", "target_case_id", "target_patient_id", "target_slice_index",
    }  # fmt: skip
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_patient_never_meets_itself_and_all_targets_are_used(dataset: UnpairedDataset) -> None:
    seen: dict[str, set[tuple[str, int]]] = {}
    for epoch in range(60):
        for case, _, target, place in epoch_of(dataset, epoch):
            assert case.split("-")[0] != target.split("-")[0]
            seen.setdefault(case.split("-")[0], set()).add((target, place))
    everything = {
        (f"{p}-{k}", z) for k, (p, depth) in enumerate(zip(PATIENTS, DEPTHS, strict=True)) for z in range(depth)
    }
    for patient, targets in seen.items():
        assert targets == {(case, place) for case, place in everything if not case.startswith(patient)}


def test_targets_of_other_patients_are_drawn_alike() -> None:
    dataset = UnpairedDataset(
        make_side("condition", ("a", "b"), (1, 1)), make_side("target", ("b", "a", "c"), (3, 5, 2))
    )
    counts = [0] * 10
    for epoch in range(2000):
        dataset.set_epoch(epoch)
        counts[dataset.draw(0)] += 1
    assert counts[3:8] == [0] * 5, "patient a has a condition, so its targets are left out"
    assert all(330 < count < 470 for count in counts[:3] + counts[8:])


def test_the_draw_depends_on_seed_epoch_and_index_only(dataset: UnpairedDataset) -> None:
    alone = epoch_of(dataset, 3)
    assert alone == epoch_of(dataset, 3, num_workers=2)
    again = UnpairedDataset(make_side("condition"), make_side("target"))
    assert alone == epoch_of(again, 3), "as after a resume"
    assert alone != epoch_of(dataset, 4)
    assert alone != epoch_of(UnpairedDataset(dataset.conditions, dataset.targets, seed=1), 3)
    shuffled = epoch_of(dataset, 3, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert shuffled != alone
    assert sorted(shuffled) == sorted(alone)
    parts = [epoch_of(dataset, 3, sampler=DistributedSampler(dataset, num_replicas=3, rank=rank)) for rank in range(3)]
    assert sorted(itertools.chain.from_iterable(parts)) == sorted(alone)


def test_persistent_workers_see_a_new_epoch(dataset: UnpairedDataset) -> None:
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = [(item["case_id"], item["target_case_id"], item["target_slice_index"]) for item in loader]
        expected = [(case, target, place) for case, _, target, place in epoch_of(dataset, epoch)]
        assert found == expected


def test_both_sides_are_augmented_anew_in_every_epoch() -> None:
    conditions = make_side("condition", slice_transform=Compose([RandGaussianNoised("condition", prob=1.0)]))
    targets = make_side("target", slice_transform=Compose([RandGaussianNoised("target", prob=1.0)]))
    dataset = UnpairedDataset(conditions, targets)
    noise = []
    for epoch in (1, 1, 2):
        dataset.set_epoch(epoch)
        noise.append((dataset[0]["condition"], dataset.targets[0]["target"]))
    assert all(torch.equal(a, b) for a, b in zip(noise[0], noise[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(noise[1], noise[2], strict=True))


def test_two_roles_of_one_cohort_share_a_cache_but_not_their_pairs(tmp_path: Path) -> None:
    data = [
        {"case_id": f"c{k}", "patient_id": f"p{k}", "condition": image, "target": -image - 1}
        for k, image in enumerate(torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 1, 4, 4, 2))
    ]
    side = SliceDataset(data, dict, keys=("condition", "target"), foreground_key=None, cache_dir=tmp_path / "cache")
    dataset = UnpairedDataset(side, side)
    for item in dataset:
        assert item["target"].mean() != -item["condition"].mean() - 1
        assert "target_condition" not in item
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    with pytest.raises(ConfigError, match="4 of 4 items .* different cases"):
        refuse_unpaired(batch)


def test_cohorts_of_different_patients_need_only_one_each() -> None:
    dataset = UnpairedDataset(make_side("condition", ("a",), (2,)), make_side("target", ("b",), (3,)))
    assert {item["target_patient_id"] for item in dataset} == {"b"}


def test_a_cohort_of_one_patient_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"All 4 target slices are of patient 'a'.*two patients or more"):
        UnpairedDataset(make_side("condition", ("a", "a"), (3, 1)), make_side("target", ("a", "a"), (3, 1)))
    with pytest.raises(ManifestError, match=r"patient 'b', who also has conditions"):
        UnpairedDataset(make_side("condition", ("a", "b"), (1, 1)), make_side("target", ("b",), (2,)))


def test_a_side_without_its_key_or_cases_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"targets have no 'target', they have condition, mask"):
        UnpairedDataset(make_side("condition"), make_side("condition"))
    with pytest.raises(ConfigError, match=r"conditions have no 'condition'"):
        UnpairedDataset(make_side("target"), make_side("target"))
    with pytest.raises(ManifestError, match="no case"):
        UnpairedDataset(make_side("condition"), make_side("target", (), ()))


def make_cohort() -> Manifest:
    """Five patients with MR and CT, one of them with two cases, one in two separate cases; two with one image only."""
    both = [("p0", "1"), ("p1", "1"), ("p1", "2"), ("p2", "1"), ("p3", "1")]
    rows = [(p, f"{p}-{c}", f"{p}/{c}/mr.nii.gz", f"{p}/{c}/ct.nii.gz", f"{p}/{c}/mask.nii.gz") for p, c in both]
    rows += [("p4", "p4-1", "p4/mr.nii.gz", "", ""), ("p4", "p4-2", "", "p4/ct.nii.gz", "p4/mask.nii.gz")]
    rows += [("p5", "p5-1", "p5/mr.nii.gz", "", ""), ("p6", "p6-1", "", "p6/ct.nii.gz", "")]
    table = pd.DataFrame(rows, columns=["patient_id", "case_id", "mr", "ct", "mask"])
    return manifest_from_table(table, file="cohort.csv")


def test_separated_patients_keep_one_image_and_half_of_them_each() -> None:
    cohort = make_cohort()
    separated = separate_patients(cohort, "mr", "ct", seed=1)
    mr, ct = (separated.with_roles(role).patients for role in ("mr", "ct"))
    assert mr | ct == cohort.patients
    assert not mr & ct
    assert "p5" in mr
    assert "p6" in ct
    assert (len(mr), len(ct)) == (2 + 1, 3 + 1)
    assert len(cohort.with_roles("mr", "ct")) == 5  # the cohort itself stays
    assert separated.table["mask"].equals(cohort.table["mask"])
    again = separate_patients(cohort, "mr", "ct", seed=1).table
    assert again.equals(separated.table)
    draws = {separate_patients(cohort, "mr", "ct", seed=seed).with_roles("mr").patients for seed in range(10)}
    assert len(draws) > 3


def test_separating_by_a_role_that_is_not_there_is_refused() -> None:
    with pytest.raises(ManifestError, match="'t1' is not a column"):
        separate_patients(make_cohort(), "t1", "ct")

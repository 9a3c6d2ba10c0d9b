import itertools
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    CastToTyped,
    Compose,
    LoadImaged,
    MapTransform,
    Orientationd,
    RandFlipd,
    RandGaussianNoised,
    ScaleIntensityd,
    SpatialPadd,
)
from torch.utils.data import DataLoader, DistributedSampler

from monai_synth.data.intensity import Window
from monai_synth.data.slices import SliceDataset, neighbour_indices
from monai_synth.errors import ConfigError, GeometryError, IntensityError, ManifestError, SynthError
from monai_synth.transforms import ToNetworkRanged

KEYS = ("condition", "target", "mask")
SHAPE = (7, 6, 5)


class Counted(MapTransform):
    """Counts calls in a file, so that calls in other processes count too."""

    def __init__(self, log: Path) -> None:
        super().__init__("condition")
        self.log = str(log)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        with open(self.log, "a") as stream:
            stream.write(f"{data['case_id']}\n")
        return dict(data)

    def calls(self) -> list[str]:
        return Path(self.log).read_text().split() if Path(self.log).exists() else []


def write_case(folder: Path, name: str, seed: int, shape: tuple[int, int, int] = SHAPE) -> dict[str, str]:
    """Voxels of the condition say where they are: 100 x + 10 y + z + 1000 seed."""
    x, y, z = np.indices(shape)
    mask = np.zeros(shape, np.uint8)
    mask[1:5, 2:4, 1:4] = 1
    images = {
        "condition": (100 * x + 10 * y + z + 1000 * seed).astype(np.float32),
        "target": np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16),
        "mask": mask,
    }
    case = {"patient_id": f"p{seed}", "case_id": name, "split": "train"}
    for key, image in images.items():
        file = folder / name / f"{key}.nii.gz"
        file.parent.mkdir(exist_ok=True, parents=True)
        nib.save(nib.Nifti1Image(image, np.diag([1, 1, 2.5, 1])), file)
        case[key] = str(file)
    return case


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, str]]:
    return [write_case(tmp_path / "raw", f"case{k}", k) for k in range(3)]


def load(*more: Any) -> Compose:
    return Compose([LoadImaged(KEYS, ensure_channel_first=True), *more])


def test_items_are_the_slices_of_the_volumes(cases: list[dict[str, str]]) -> None:
    dataset = SliceDataset(cases, load())

    assert (dataset.num_volumes, dataset.num_slices, len(dataset)) == (3, 9, 9)
    assert dataset.case_ids == ("case0", "case1", "case2")
    seen = []
    for item in dataset:
        assert list(item) == [*KEYS, "case_id", "patient_id", "slice_index"]
        for key in KEYS:
            assert type(item[key]) is torch.Tensor
            case = cases[dataset.case_ids.index(item["case_id"])]
            volume = np.asanyarray(nib.load(case[key]).dataobj)
            np.testing.assert_array_equal(item[key], volume[None, :, :, item["slice_index"]])
        seen.append((item["patient_id"], item["slice_index"]))
    assert seen == [(f"p{case}", z) for case in range(3) for z in (1, 2, 3)]
    assert item["condition"].dtype == torch.float32
    assert item["mask"].dtype == torch.uint8
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis(cases: list[dict[str, str]], axis: int) -> None:
    dataset = SliceDataset(cases, load(), axis=axis, foreground_key=None)
    volume = np.asanyarray(nib.load(cases[1]["condition"]).dataobj)

    assert len(dataset) == 3 * SHAPE[axis]
    np.testing.assert_array_equal(dataset[SHAPE[axis] + 3]["condition"][0], volume.take(3, axis))


def test_foreground_decides_which_slices(cases: list[dict[str, str]]) -> None:
    assert len(SliceDataset(cases, load(), foreground_key=None)) == 15
    assert len(SliceDataset(cases, load(), min_foreground=8)) == 9
    assert len(SliceDataset(cases, load(), keys=("condition",))) == 9
    assert list(SliceDataset(cases, load(), keys=("condition",))[0]) == [
        "condition",
        "case_id",
        "patient_id",
        "slice_index",
    ]
    with pytest.raises(ManifestError, match=r"case0, case1, case2.*9 voxel.*'mask'"):
        SliceDataset(cases, load(), min_foreground=9)


def test_neighbours_are_blocks_per_channel_with_repeated_ends(tmp_path: Path) -> None:
    volume = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    data = [{"case_id": "a", "patient_id": "a", "condition": volume, "target": volume}]
    dataset = SliceDataset(data, dict, keys=("condition", "target"), num_neighbours=2, foreground_key=None)

    item = dataset[1]
    expected = torch.stack([volume[c, :, :, z] for c in (0, 1) for z in (0, 0, 1, 2, 3)])
    assert torch.equal(item["condition"], expected)
    assert torch.equal(item["target"], volume[..., 1])
    assert torch.equal(
        dataset[4]["condition"], torch.stack([volume[c, :, :, z] for c in (0, 1) for z in (2, 3, 4, 4, 4)])
    )
    assert neighbour_indices(np.array([0, 4]), 5, 1).tolist() == [[0, 0, 1], [3, 4, 4]]
    assert neighbour_indices(0, 1, 2).tolist() == [0, 0, 0, 0, 0]


def test_single_images_are_one_slice_each(tmp_path: Path) -> None:
    data = [{"case_id": str(k), "patient_id": str(k), "condition": torch.full((3, 4, 5), float(k))} for k in range(3)]
    dataset = SliceDataset(data, dict, keys=("condition",), foreground_key=None)

    assert [item["condition"].mean().item() for item in dataset] == [0.0, 1.0, 2.0]
    assert dataset[0]["condition"].shape == (3, 4, 5)


def test_types_are_kept_small(tmp_path: Path) -> None:
    volumes = {
        "double": torch.rand(1, 3, 3, 2, dtype=torch.float64),
        "bool": torch.ones(1, 3, 3, 2, dtype=torch.bool),
        "labels": torch.full((1, 3, 3, 2), 300, dtype=torch.int64),
        "cells": torch.full((1, 3, 3, 2), 70000, dtype=torch.int64),
        "half": torch.ones(1, 3, 3, 2, dtype=torch.bfloat16),
    }
    data = [{"case_id": "a", "patient_id": "a", **volumes}]
    item = SliceDataset(data, dict, keys=tuple(volumes), neighbour_keys=(), foreground_key=None)[0]

    found = [item[key].dtype for key in volumes]
    assert found == [torch.float32, torch.uint8, torch.int16, torch.int32, torch.float32]
    assert item["cells"].max() == 70000


# --- the cache
# ---------------------------------------------------------------------------------------------------------


def test_cache_is_reused_until_something_changes(cases: list[dict[str, str]], tmp_path: Path) -> None:
    counted = Counted(tmp_path / "log")
    cache = tmp_path / "cache"

    def build(*more: Any, **options: Any) -> int:
        before = len(counted.calls())
        SliceDataset(cases, load(counted, *more), cache_dir=cache, **options)
        return len(counted.calls()) - before

    assert build() == 3
    assert build() == 0, "a Compose made anew, with another random state, is the same transform"
    assert build(num_neighbours=1, min_foreground=3, seed=9) == 0, "what is decided when reading does not count"
    assert build(ToNetworkRanged("target", Window(-1024, 2000))) == 3
    assert build(ToNetworkRanged("target", Window(-1024, 2001))) == 3
    assert build(axis=1) == 3
    assert build(keys=("condition", "target"), foreground_key=None) == 3
    assert build() == 0

    write_case(tmp_path / "raw", "case1", 5)
    assert build() == 1
    os.utime(cases[2]["mask"], ns=(1, 1))
    assert build() == 1
    cases[0]["split"] = "val"
    assert build() == 0, "the split does not change the images"


def test_using_a_transform_does_not_rename_its_cache(cases: list[dict[str, str]], tmp_path: Path) -> None:
    counted = Counted(tmp_path / "log")
    axes = (("L", "R"), ("P", "A"), ("I", "S"))
    transform = load(Orientationd(KEYS, axcodes="RAS", labels=axes), ScaleIntensityd("target"), counted)
    for _ in range(2):
        SliceDataset(cases, transform, cache_dir=tmp_path / "cache")

    assert len(counted.calls()) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone", "record"])
def test_damaged_files_are_made_again(cases: list[dict[str, str]], tmp_path: Path, damage: str) -> None:
    counted = Counted(tmp_path / "log")
    cache = tmp_path / "cache"
    expected = SliceDataset(cases, load(counted), cache_dir=cache)[0]["target"].clone()
    file = sorted(cache.glob("*.json" if damage == "record" else "*.1.npy"))[0]
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 3)
    elif damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else b"{}" + b"garbage" * 100)

    again = SliceDataset(cases, load(counted), cache_dir=cache)

    assert len(counted.calls()) == 4
    assert torch.equal(again[0]["target"], expected)


def test_no_half_written_files_stay(cases: list[dict[str, str]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    SliceDataset(cases, load(), cache_dir=cache)

    assert sorted({file.suffix for file in cache.iterdir()}) == [".json", ".npy"]
    assert len(list(cache.iterdir())) == 3 * (len(KEYS) + 1)
    for file in cache.glob("*.json"):
        assert json.loads(file.read_text())["foreground"] == [0, 8, 8, 8, 0]


def test_leftovers_of_a_killed_process_go_after_an_hour(cases: list[dict[str, str]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    old, young = cache / ".old.tmp", cache / ".young.tmp"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    SliceDataset(cases, load(), cache_dir=cache)

    assert not old.exists()
    assert young.exists()


def _build(arguments: tuple[list[dict[str, str]], Path, Path, int]) -> float:
    cases, cache, log, rank = arguments
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    dataset = SliceDataset(cases, load(Counted(log)), cache_dir=cache)
    return sum(float(item["condition"].sum()) for item in dataset)


def test_two_processes_build_one_cache(cases: list[dict[str, str]], tmp_path: Path) -> None:
    arguments = [(cases, tmp_path / "cache", tmp_path / f"log{rank}", rank) for rank in range(2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_build, arguments, chunksize=1)

    assert first == second == sum(float(item["condition"].sum()) for item in SliceDataset(cases, load()))
    assert (tmp_path / "log1").read_text().split()[0] == "case1", "the second rank starts at another case"


def test_temporary_cache_goes_with_the_dataset(cases: list[dict[str, str]]) -> None:
    dataset = SliceDataset(cases, load())
    folder = Path(dataset._temporary.path)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - what a spawned worker gets
    assert len(list(DataLoader(dataset, num_workers=1))) == 9
    del copy
    assert folder.is_dir(), "the end of a worker or of a copy does not remove the files"
    del dataset

    assert not folder.exists()


# --- loaders and augmentation
# ------------------------------------------------------------------------------------------


def augmentation() -> Compose:
    return Compose([RandFlipd(KEYS, prob=0.5, spatial_axis=0), RandGaussianNoised("condition", prob=1.0)])


def _epoch(dataset: SliceDataset, epoch: int, **options: Any) -> list[torch.Tensor]:
    dataset.set_epoch(epoch)
    return [item["condition"] for item in DataLoader(dataset, batch_size=2, **options)]


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_augmentation_depends_on_seed_epoch_and_index_only(cases: list[dict[str, str]], tmp_path: Path) -> None:
    def build(seed: int) -> SliceDataset:
        return SliceDataset(cases, load(), slice_transform=augmentation(), cache_dir=tmp_path / "cache", seed=seed)

    dataset = build(0)
    alone = _epoch(dataset, 3, num_workers=0)

    assert _equal(alone, _epoch(dataset, 3, num_workers=2))
    assert _equal(alone, _epoch(build(0), 3, num_workers=0)), "as after a resume"
    assert not _equal(alone, _epoch(dataset, 4, num_workers=0))
    assert not _equal(alone, _epoch(build(1), 3, num_workers=0))
    item = dataset[0]
    assert type(item["condition"]) is torch.Tensor
    assert type(item["mask"]) is torch.Tensor
    assert not torch.equal(dataset[0]["condition"] - build(0)[0]["condition"], dataset[1]["condition"])


def test_persistent_workers_see_a_new_epoch(cases: list[dict[str, str]]) -> None:
    dataset = SliceDataset(cases, load(), slice_transform=augmentation())
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = [item["condition"] for item in loader]
        assert _equal(found, _epoch(dataset, epoch))


def test_spawned_workers(cases: list[dict[str, str]]) -> None:
    dataset = SliceDataset(cases, load(), num_neighbours=1)
    expected = _epoch(dataset, 0)

    assert _equal(expected, _epoch(dataset, 0, num_workers=1, multiprocessing_context="spawn"))


def test_shuffle_and_distributed_sampler_cover_every_slice_once(cases: list[dict[str, str]]) -> None:
    dataset = SliceDataset(cases, load())
    everything = sorted((item["case_id"], item["slice_index"]) for item in dataset)

    def seen(**options: Any) -> list[tuple[str, int]]:
        loader = DataLoader(dataset, batch_size=2, **options)
        return [pair for batch in loader for pair in zip(batch["case_id"], batch["slice_index"].tolist(), strict=True)]

    shuffled = seen(shuffle=True, generator=torch.Generator().manual_seed(0))
    assert shuffled != everything
    assert sorted(shuffled) == everything
    parts = [seen(sampler=DistributedSampler(dataset, num_replicas=3, rank=rank)) for rank in range(3)]
    assert sorted(itertools.chain.from_iterable(parts)) == everything


def test_sizes_may_change_in_the_slice_transform(cases: list[dict[str, str]]) -> None:
    item = SliceDataset(cases, load(), slice_transform=Compose([SpatialPadd(KEYS, (16, 16))]))[0]

    assert [tuple(item[key].shape) for key in KEYS] == [(1, 16, 16)] * 3
    assert item["mask"].sum() == 8


# --- errors
# ------------------------------------------------------------------------------------------------------------


def test_shapes_that_differ_name_case_and_keys(cases: list[dict[str, str]], tmp_path: Path) -> None:
    cases[1]["target"] = write_case(tmp_path / "other", "x", 7, (7, 6, 4))["target"]
    with pytest.raises(GeometryError, match="'case1'.*'target' is not on the grid of 'condition': shape is 7 x 6 x 4"):
        SliceDataset(cases, load())


def test_nan_names_the_case(cases: list[dict[str, str]], tmp_path: Path) -> None:
    image = np.ones(SHAPE, np.float32)
    image[0, 0, :2] = np.nan
    nib.save(nib.Nifti1Image(image, nib.load(cases[2]["condition"]).affine), cases[2]["condition"])
    with pytest.raises(IntensityError, match=r"'case2': 2 of 210 values of 'condition'"):
        SliceDataset(cases, load())


def test_a_missing_file_names_case_key_and_file(cases: list[dict[str, str]]) -> None:
    Path(cases[1]["target"]).unlink()
    with pytest.raises(ManifestError, match=r"'case1': 'target' is missing: .*case1.target.nii.gz"):
        SliceDataset(cases, load())


def test_an_unreadable_file_names_case_key_and_file(cases: list[dict[str, str]]) -> None:
    Path(cases[1]["mask"]).write_bytes(b"not an image")
    with pytest.raises(SynthError, match=r"'case1' failed in the transform \('mask': .*mask.nii.gz") as caught:
        SliceDataset(cases, load())
    assert caught.value.__cause__ is not None
    assert "condition.nii.gz" not in str(caught.value)


def test_an_error_of_a_transform_keeps_its_class_and_message(cases: list[dict[str, str]]) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.inf, np.float32), np.eye(4)), cases[0]["target"])
    with pytest.raises(IntensityError, match=r"'case0' failed .*'target': 210 of 210 values"):
        SliceDataset(cases, load(ToNetworkRanged("target", Window(-1024, 2000))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ("condition", "ct")}, r"gives no \['ct'\]"),
        ({"foreground_key": "body"}, r"gives no \['body'\]"),
        ({"axis": 3}, "axis must be"),
        ({"num_neighbours": 1, "neighbour_keys": ("image",)}, "neighbour_keys"),
    ],
)
def test_options_that_do_not_fit(cases: list[dict[str, str]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SliceDataset(cases, load(), **options)


def test_transforms_that_cannot_be_named_are_refused(cases: list[dict[str, str]]) -> None:
    unnamed: Callable[[Any], Any] = lambda data: data  # noqa: E731
    with pytest.raises(ConfigError, match="cannot be pickled"):
        SliceDataset(cases, load(unnamed))


def test_no_case_and_no_id(cases: list[dict[str, str]]) -> None:
    with pytest.raises(ManifestError, match="no case"):
        SliceDataset([], load())
    with pytest.raises(ManifestError, match="patient_id"):
        SliceDataset([{"case_id": "a"}], load())


def test_a_volume_without_channels_is_refused(cases: list[dict[str, str]]) -> None:
    data = [{"case_id": "a", "patient_id": "a", "condition": torch.zeros(4, 4)}]
    with pytest.raises(GeometryError, match=r"\(4, 4\)"):
        SliceDataset(data, dict, keys=("condition",), foreground_key=None)


def test_masks_that_are_no_whole_numbers_stay_as_they_are(cases: list[dict[str, str]]) -> None:
    soft = load(CastToTyped("mask", torch.float32), ScaleIntensityd("mask", minv=0, maxv=0.5))

    assert SliceDataset(cases, soft)[0]["mask"].dtype == torch.float32

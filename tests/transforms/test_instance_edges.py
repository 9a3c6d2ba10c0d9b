"""Edges of instance maps."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, ConcatItemsd, LoadImaged

from monai_synth.errors import ConfigError, LabelError
from monai_synth.transforms import InstanceEdgesd, OneHotd, instance_edges


def edges_by_definition(instances: np.ndarray) -> np.ndarray:
    edges = np.zeros(instances.shape, dtype=bool)
    for place in np.ndindex(instances.shape):
        for axis in range(instances.ndim):
            for step in (-1, 1):
                neighbour = list(place)
                neighbour[axis] += step
                if 0 <= neighbour[axis] < instances.shape[axis]:
                    edges[place] |= instances[place] != instances[tuple(neighbour)]
    return edges


def test_equals_the_input_of_pix2pixhd(shared_dir: Path) -> None:
    golden = np.load(shared_dir / "golden" / "p2phd_encode_input.npz")
    prepare = Compose([OneHotd("label", 6), InstanceEdgesd("inst"), ConcatItemsd(["label", "inst"], "condition")])
    for label, inst, expected in zip(golden["in/label"], golden["in/inst"], golden["out/input_label"], strict=True):
        condition = prepare({"label": label, "inst": inst})["condition"]
        assert condition.dtype == torch.float32
        np.testing.assert_array_equal(condition, expected)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6), (1, 6), (5, 1, 3), (1, 1)])
def test_every_neighbour_on_both_sides_counts(shape: tuple[int, ...]) -> None:
    instances = np.random.default_rng(1).integers(0, 3, shape)
    found = instance_edges(torch.from_numpy(instances)[None])

    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found[0], edges_by_definition(instances))


def test_batches_do_not_mix() -> None:
    instances = torch.arange(3).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)

    assert not instance_edges(instances).any()


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [
        (np.uint8, 250),
        (np.uint16, 65530),
        (np.uint32, 70000),
        (np.uint32, 2**32 - 9),
        (np.int32, 2**24),
        (">u4", 2**31),
    ],
)
@pytest.mark.parametrize("is_tensor", [True, False])
def test_neighbouring_large_ids_differ(dtype: type | str, offset: int, is_tensor: bool) -> None:
    small = np.array([[[0, 0, 1], [0, 2, 1]]])
    large = (small + offset).astype(dtype)
    image = torch.from_numpy(large.astype(np.dtype(dtype).newbyteorder("="))) if is_tensor else large
    edges = InstanceEdgesd("inst")({"inst": image})["inst"]

    np.testing.assert_array_equal(edges[0], edges_by_definition(small[0]))


def test_ids_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    ids = np.zeros((4, 3, 2), dtype=np.uint32)
    ids[2:] = 1
    nib.save(nib.Nifti1Image(ids + 2**24, np.eye(4)), tmp_path / "inst.nii.gz")
    data = {"inst": str(tmp_path / "inst.nii.gz")}
    with pytest.raises(LabelError, match=r"inst\.nii\.gz \('inst'\): id 16777216 in float32.*dtype=np\.int64"):
        InstanceEdgesd("inst")(LoadImaged("inst", ensure_channel_first=True)(data))
    edges = InstanceEdgesd("inst")(LoadImaged("inst", ensure_channel_first=True, dtype=np.int64)(data))["inst"]

    np.testing.assert_array_equal(edges[0, :, 0, 0], [0, 1, 1, 0])


def test_metadata_stay_and_the_ids_may_stay_too() -> None:
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    instances = MetaTensor(torch.tensor([[[1, 1, 7]]], dtype=torch.int32), affine=affine)
    out = InstanceEdgesd("inst", output_key="edges", dtype=torch.uint8)({"inst": instances})

    assert out["inst"] is instances
    assert out["edges"].tolist() == [[[0, 1, 1]]]
    assert out["edges"].dtype == torch.uint8
    assert torch.equal(out["edges"].affine, affine)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="'edges'.*overwrite"):
        InstanceEdgesd(["a", "b"], output_key="edges")
    with pytest.raises(LabelError, match="one channel"):
        InstanceEdgesd("inst")({"inst": torch.zeros(3, 4, 4)})
    with pytest.raises(LabelError, match=r"'inst': 1 of 4 values are not whole"):
        InstanceEdgesd("inst")({"inst": torch.tensor([[[0, 0.5], [0, 0]]])})
    with pytest.raises(KeyError):
        InstanceEdgesd("inst")({})
    assert InstanceEdgesd("inst", allow_missing_keys=True)({}) == {}


def test_real_cells_are_outlined(shared_dir: Path) -> None:
    file = min((shared_dir / "data/F_microscopy/DSB2018/instance_labels").glob("*.png"))
    data = LoadImaged("cells", ensure_channel_first=True, dtype=np.int64)({"cells": str(file)})
    edges = InstanceEdgesd("cells", output_key="edges")(data)["edges"]

    assert edges.shape == data["cells"].shape
    assert 0 < edges.mean() < 0.5
    np.testing.assert_array_equal(edges[0] > 0, edges_by_definition(data["cells"][0].numpy()))

"""Ids of several protocols become few classes."""

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from monai_synth.errors import LabelError
from monai_synth.transforms import MergeLabelsd

CLASSES = {"background": [0, 24], "white matter": [2, 41], "cortex": [3, 42], "other head": []}
AFFINE = torch.tensor([[-0.9, 0.1, 0, 4], [0.1, 1.2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1.0]], dtype=torch.float64)


def label_map(ids: list[int], dtype: torch.dtype = torch.int32) -> MetaTensor:
    meta = {"filename_or_obj": "/cohort/p 1/aseg.nii.gz"}
    return MetaTensor(torch.tensor(ids, dtype=dtype).reshape(1, -1, 1, 1), affine=AFFINE, meta=meta)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_ids_become_the_number_of_their_class_and_metadata_stay(dtype: torch.dtype) -> None:
    labels = label_map([0, 24, 2, 41, 3, 42], dtype)
    out = MergeLabelsd("label", CLASSES)({"label": labels, "other": 1})

    assert out["label"].flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert out["label"].dtype == torch.int16
    assert torch.equal(out["label"].affine, AFFINE)
    assert out["label"].meta["filename_or_obj"] == "/cohort/p 1/aseg.nii.gz"
    assert out["other"] == 1
    assert labels.flatten().tolist() == [0, 24, 2, 41, 3, 42], "the input is left as it was"


def test_every_id_against_a_lookup_by_hand() -> None:
    ids = np.random.default_rng(0).choice([0, 24, 2, 41, 3, 42], (1, 5, 6, 7))
    by_hand = np.vectorize({0: 0, 24: 0, 2: 1, 41: 1, 3: 2, 42: 2}.get)(ids)
    assert np.array_equal(MergeLabelsd("label", CLASSES)({"label": ids})["label"], by_hand)


def test_unknown_ids_are_refused_by_id_file_and_count() -> None:
    message = (
        r"/cohort/p 1/aseg\.nii\.gz \('label'\): 17 \(2 voxels\), 9 \(1 voxel\) in none of the classes background,"
    )
    with pytest.raises(LabelError, match=message):
        MergeLabelsd("label", CLASSES)({"label": label_map([0, 17, 9, 17])})
    # Larger than every id of the table, where a search ends behind its end.
    with pytest.raises(LabelError, match=r"99 \(1 voxel\)"):
        MergeLabelsd("label", CLASSES)({"label": label_map([0, 99])})


def test_unknown_ids_go_to_the_class_that_is_named() -> None:
    out = MergeLabelsd("label", CLASSES, unknown="other head")({"label": label_map([0, 17, 2, 530])})
    assert out["label"].flatten().tolist() == [0, 3, 1, 3]


def test_what_is_no_label_map_is_refused() -> None:
    with pytest.raises(LabelError, match="not whole numbers"):
        MergeLabelsd("label", CLASSES)({"label": torch.tensor([[[0.5]]])})
    with pytest.raises(LabelError, match="one channel"):
        MergeLabelsd("label", CLASSES)({"label": torch.zeros(3, 4, 4)})


@pytest.mark.parametrize(
    ("classes", "unknown", "message"),
    [
        ({"background": [0], "brain": [2, 0]}, None, r"Id 0 is in the classes 'background' and 'brain'"),
        ({"background": [0, 0]}, None, r"id 0 several times|id .*0.* several times"),
        ({"background": [-1]}, None, "Id -1"),
        ({"background": [0.5]}, None, "0.5"),
        ({"background": []}, None, "None of the classes background has an id"),
        ({"background": 0}, None, "does not give each class its ids"),
        ([0, 1], None, "does not give each class its ids"),
        ({}, None, "empty|None of"),
        ({" ": [0]}, None, "name in words"),
        ({"background": [0]}, "skull", "unknown='skull' is not one of the classes background"),
    ],
)
def test_wrong_tables_are_refused_before_any_file_is_read(classes, unknown, message) -> None:
    with pytest.raises(LabelError, match=message):
        MergeLabelsd("label", classes, unknown)


def test_missing_keys_and_use_from_a_configuration() -> None:
    assert MergeLabelsd("label", CLASSES, allow_missing_keys=True)({}) == {}
    config = {
        "labels": CLASSES,
        "merge": {"_target_": "monai_synth.transforms.MergeLabelsd", "keys": "label", "classes": "@labels"},
    }
    merge = ConfigParser(config).get_parsed_content("merge")
    assert merge({"label": label_map([41])})["label"].item() == 1

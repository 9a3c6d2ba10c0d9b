"""Label maps to one-hot and back."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd, LoadImaged, SaveImaged

from monai_synth.data import LabelTable
from monai_synth.errors import ConfigError, LabelError
from monai_synth.transforms import CheckLabelsd, LabelsFromOneHotd, OneHotd

TABLE = {0: "background", 1: "brain", 5: "tumour"}
AFFINE = torch.tensor([[-0.9, 0.1, 0, 4], [0.1, 1.2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1.0]], dtype=torch.float64)


def label_map(*shape: int, dtype: torch.dtype = torch.uint8) -> MetaTensor:
    ids = torch.tensor(list(TABLE))[torch.from_numpy(np.random.default_rng(0).integers(0, 3, shape))]
    return MetaTensor(ids[None].to(dtype), affine=AFFINE, meta={"filename_or_obj": "/cohort/p 1/seg.nii.gz"})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_each_class_has_its_channel_and_metadata_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    labels = label_map(*shape, dtype=dtype)
    out = OneHotd("label", TABLE)({"label": labels, "other": 1})

    assert out["label"].shape == (3, *shape)
    assert out["label"].dtype == torch.float32
    for channel, label in enumerate(TABLE):
        assert torch.equal(out["label"][channel].as_tensor() == 1, labels[0].as_tensor() == label)
    assert torch.equal(out["label"].sum(0).as_tensor(), torch.ones(shape))
    assert torch.equal(out["label"].affine, AFFINE)
    assert out["label"].meta["filename_or_obj"] == "/cohort/p 1/seg.nii.gz"
    assert out["other"] == 1
    assert labels.shape == (1, *shape), "the input is left as it was"


def test_numpy_arrays_and_other_types() -> None:
    out = OneHotd("label", TABLE, dtype=torch.uint8)({"label": np.array([[[0, 5]]], dtype=np.uint16)})

    assert type(out["label"]) is torch.Tensor
    assert out["label"].dtype == torch.uint8
    assert out["label"].tolist() == [[[1, 0]], [[0, 0]], [[0, 1]]]


@pytest.mark.parametrize("unknown", [{}, {255: "unknown"}])
def test_unknown_voxels_are_zero_or_have_a_channel(unknown: dict[int, str]) -> None:
    labels = torch.tensor([[[0, 255, 1, 5]]])
    table = LabelTable(TABLE | unknown, unknown_id=255)
    out = OneHotd("label", table)({"label": labels})

    assert out["label"].shape[0] == 3 + len(unknown)
    assert out["label"][:3, 0, 1].tolist() == [0, 0, 0]
    assert out["label"].sum(0).tolist() == [[1, len(unknown), 1, 1]]
    assert torch.equal(LabelsFromOneHotd("label", table)(out)["label"], labels.int())


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_there_and_back_is_identity(shape: tuple[int, ...]) -> None:
    labels = label_map(*shape)
    back = LabelsFromOneHotd("label", TABLE, dtype=torch.uint8)(OneHotd("label", TABLE)({"label": labels}))["label"]

    assert back.dtype == torch.uint8
    assert torch.equal(back.as_tensor(), labels.as_tensor())
    assert torch.equal(back.affine, AFFINE)


def test_probabilities_become_the_most_probable_id() -> None:
    scores = torch.tensor([[[0.2, -3.0]], [[0.3, -4.0]], [[0.5, -5.0]]])

    assert LabelsFromOneHotd("pred", TABLE)({"pred": scores})["pred"].tolist() == [[[5, 0]]]


def test_errors_name_key_file_ids_and_counts() -> None:
    labels = label_map(7, 5)
    labels[0, :2, :2] = 9
    message = r"/cohort/p 1/seg\.nii\.gz \('label'\): 9 \(4 voxels\) not in the label table.*0 background, 1 brain"
    for transform in (OneHotd("label", TABLE), CheckLabelsd("label", TABLE)):
        with pytest.raises(LabelError, match=message):
            transform({"label": labels})
        with pytest.raises(LabelError, match=r"'label': 2 \(1 voxel\)"):
            transform({"label": torch.full((1, 1, 1), 2)})


@pytest.mark.parametrize("shape", [(3, 8, 9), (4, 8, 9), (0, 8, 9), (8,), (2, 4, 4, 4)])
def test_a_label_map_has_one_channel(shape: tuple[int, ...]) -> None:
    with pytest.raises(LabelError, match=r"'label': shape \(.*\), but a label map has one channel.*colour picture"):
        OneHotd("label", TABLE)({"label": torch.zeros(shape)})


def test_check_changes_nothing() -> None:
    data = {"label": label_map(7, 5), "other": 1}
    out = CheckLabelsd(["label", "absent"], TABLE, allow_missing_keys=True)(data)

    assert out["label"] is data["label"]
    assert out == data


def test_decoding_refuses_what_it_cannot_decode() -> None:
    with pytest.raises(LabelError, match=r"'pred' has 4 channels .* 3 classes"):
        LabelsFromOneHotd("pred", TABLE)({"pred": torch.rand(4, 5, 5)})
    padded = torch.nn.functional.pad(torch.ones(3, 4, 4), (0, 0, 0, 2))
    with pytest.raises(LabelError, match=r"'pred': 8 of 24 voxels are zero in all channels.*Pad before OneHotd"):
        LabelsFromOneHotd("pred", TABLE)({"pred": padded})


def test_missing_keys_and_wrong_tables() -> None:
    assert OneHotd("label", TABLE, allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        OneHotd("label", TABLE)({})
    with pytest.raises(ConfigError, match="no label table"):
        OneHotd("label", 1.5)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="Id -1"):
        OneHotd("label", {-1: "void"})


def test_it_can_be_written_in_a_bundle() -> None:
    config = {
        "_target_": "monai_synth.transforms.OneHotd",
        "keys": "condition",
        "table": {"_target_": "monai_synth.data.LabelTable", "labels": {"0": "air", "4": "body"}, "unknown_id": 255},
    }
    short = {"_target_": "monai_synth.transforms.OneHotd", "keys": "condition", "table": {"0": "air", "4": "body"}}
    parser = ConfigParser(json.loads(json.dumps({"transform": config, "short": short})))

    assert parser.get_parsed_content("transform").table == LabelTable({0: "air", 4: "body"}, 255)
    assert parser.get_parsed_content("short").table == LabelTable({0: "air", 4: "body"})


def test_files_go_through_and_images_come_back_to_their_grid(tmp_path: Path) -> None:
    ids = label_map(7, 5, 3)[0].numpy().astype(np.int16)
    nib.save(nib.Nifti1Image(ids, AFFINE.numpy()), tmp_path / "seg.nii.gz")
    before = Compose(
        [
            LoadImaged("condition", ensure_channel_first=True),
            Flipd("condition", spatial_axis=0),
            OneHotd("condition", TABLE),
        ]
    )
    data = before({"condition": str(tmp_path / "seg.nii.gz")})
    data["pred"] = MetaTensor(torch.flip(torch.from_numpy(ids).float() * 100, [0])[None])
    after = Invertd("pred", transform=before, orig_keys="condition", nearest_interp=False, to_tensor=True)(data)

    np.testing.assert_allclose(after["pred"][0].numpy(), ids * 100.0)

    decoded = LabelsFromOneHotd("condition", TABLE)(data)
    options = {"output_postfix": "again", "separate_folder": False, "print_log": False, "resample": False}
    SaveImaged("condition", output_dir=str(tmp_path), output_dtype=np.int16, **options)(decoded)
    written = nib.load(tmp_path / "seg_again.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), ids[::-1])


def test_real_label_maps_of_mr(shared_dir: Path) -> None:
    file = shared_dir / "data/C_mr_labels/MNE_freesurfer/sample_ecog/aseg.nii.gz"
    ids = np.unique(np.asanyarray(nib.load(file).dataobj)).tolist()
    table = LabelTable({label: f"structure {label}" for label in ids})
    data = LoadImaged("seg", ensure_channel_first=True)({"seg": str(file)})
    data["seg"] = data["seg"][:, 100:140, 100:140, 100:140]
    out = OneHotd("seg", table, dtype=torch.uint8)(data)

    assert out["seg"].shape[0] == len(ids) > 30
    assert torch.equal(LabelsFromOneHotd("seg", table)(out)["seg"].as_tensor(), data["seg"].as_tensor().int())
    with pytest.raises(LabelError, match=r"aseg\.nii\.gz \('seg'\): .* voxels\)"):
        OneHotd("seg", {0: "background", 2: "left white matter"})(data)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bool])
def test_a_type_that_cannot_hold_the_ids_is_refused(dtype):
    with pytest.raises(ConfigError, match="dtype="):
        LabelsFromOneHotd("labels", {0: "air", 300: "bone"}, dtype=dtype)


def test_scores_that_are_no_numbers_are_refused():
    decode = LabelsFromOneHotd("labels", ["air", "bone"])
    with pytest.raises(LabelError, match="NaN"):
        decode({"labels": torch.full((2, 3, 3), float("nan"))})

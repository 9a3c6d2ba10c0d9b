"""Label tables: what they accept, what they refuse, and what they say about it."""

import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_synth.data import LabelTable
from monai_synth.data.labels import whole_numbers
from monai_synth.errors import ConfigError, LabelError

TABLE = LabelTable({0: "background", 1: "brain", 5: "tumour"})
DTYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float16, np.float32]


def test_channels_follow_the_order_of_the_table() -> None:
    table = LabelTable({255: "unknown", 5: "tumour", 0: "background"}, unknown_id=255)

    assert table.num_classes == 3
    assert table.ids == (255, 5, 0)
    assert table.names == ("unknown", "tumour", "background")
    assert [table.channel(label) for label in table.ids] == [0, 1, 2]
    assert table.unknown_channel == 0
    assert table != LabelTable({0: "background", 5: "tumour", 255: "unknown"}, unknown_id=255)
    with pytest.raises(LabelError, match="Id 7 has no channel; the label table knows 0 background, 1 brain, 5 tumour"):
        TABLE.channel(7)


def test_unknown_id_has_a_channel_only_if_it_is_named() -> None:
    labels = np.array([[0, 255], [5, 1]], dtype=np.uint8)
    last = LabelTable({0: "background", 1: "brain", 5: "tumour", 255: "don't care"}, unknown_id=255)
    hidden = LabelTable({0: "background", 1: "brain", 5: "tumour"}, unknown_id=255)

    assert last.to_channels(labels).tolist() == [[0, 3], [2, 1]]
    assert last.unknown_channel == 3
    assert hidden.to_channels(labels).tolist() == [[0, -1], [2, 1]]
    assert hidden.unknown_channel is None
    assert hidden.num_classes == 3
    assert hidden.to_ids(hidden.to_channels(labels)).tolist() == labels.tolist()
    with pytest.raises(LabelError, match=r"7 \(1 voxel\).*5 tumour, 255 unknown"):
        hidden.check(np.array([7]))


@given(
    ids=st.lists(st.integers(0, 2**33), min_size=1, max_size=9, unique=True),
    seed=st.integers(0, 99),
    is_tensor=st.booleans(),
)
def test_to_channels_and_back_is_identity(ids: list[int], seed: int, is_tensor: bool) -> None:
    table = LabelTable({label: f"tissue {label}" for label in ids})
    labels = np.random.default_rng(seed).choice(ids, (1, 3, 4, 2))
    channels = table.to_channels(torch.from_numpy(labels) if is_tensor else labels)

    assert isinstance(channels, torch.Tensor) == is_tensor
    assert all(table.ids[c] == label for c, label in zip(np.ravel(channels), labels.ravel(), strict=True))
    np.testing.assert_array_equal(np.asarray(table.to_ids(channels)), labels)


@pytest.mark.parametrize("dtype", [*DTYPES, np.float64, np.longdouble, ">i2", ">f4", "<u2"])
def test_any_numeric_type_is_read(dtype: type | str) -> None:
    labels = np.array([[0, 1, 5], [5, 5, 0]]).astype(dtype)

    assert TABLE.to_channels(labels).tolist() == [[0, 1, 2], [2, 2, 0]]
    assert TABLE.to_channels(labels[::-1, ::-1]).tolist() == [[0, 2, 2], [2, 1, 0]]
    labels.setflags(write=False)
    TABLE.check(labels)
    with pytest.raises(LabelError, match=r"5 \(3 voxels\)"):
        LabelTable.from_names(["background", "brain"]).check(labels)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.uint16, torch.uint32, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float64],
)
def test_any_type_of_tensor_is_read(dtype: torch.dtype) -> None:
    labels = torch.tensor([[0, 1, 5]]).to(dtype)

    assert TABLE.to_channels(labels).tolist() == [[0, 1, 2]]
    assert type(TABLE.to_channels(MetaTensor(labels.float()))) is torch.Tensor
    with pytest.raises(LabelError, match=r"5 \(1 voxel\)"):
        LabelTable({0: "background", 1: "brain"}).check(labels)


def test_booleans_are_background_and_foreground() -> None:
    assert LabelTable.of(2).to_channels(np.array([True, False])).tolist() == [1, 0]


def test_rounding_of_a_scale_factor_passes() -> None:
    assert TABLE.to_channels(np.array([0.9999, 5.0004, 0.0], dtype=np.float32)).tolist() == [1, 2, 0]


def test_unnamed_ids_are_counted_with_file_and_way_out() -> None:
    labels = np.zeros((1, 20, 30), dtype=np.uint8)
    labels[0, :2, :5], labels[0, 3, 3] = 250, 7
    with pytest.raises(LabelError) as caught:
        TABLE.check(labels, source="/cohort/p01/seg.nii.gz")

    message = str(caught.value)
    assert message.startswith("/cohort/p01/seg.nii.gz: 250 (10 voxels), 7 (1 voxel) not in the label table")
    assert "which knows 0 background, 1 brain, 5 tumour" in message
    assert "--labels" in message
    assert "unknown_id" in message


def test_many_unnamed_ids_are_summed_up_most_frequent_first() -> None:
    labels = np.repeat(np.arange(40), np.arange(1, 41))
    with pytest.raises(LabelError, match=r"The label map: 39 \(40 voxels\), 38 \(39 voxels\).* and 32 more not in"):
        TABLE.check(labels)
    with pytest.raises(LabelError, match="knows 35 ids from 0 to 34"):
        LabelTable.of(35).check(labels)


@pytest.mark.parametrize(
    ("labels", "source", "guess"),
    [
        (np.full((4, 5), -1000, np.int16), None, "Ids are never negative: is it an image"),
        (np.array([0, 3, 1], np.uint8), "mask.JPG", "JPEG changes values"),
        (np.array([0, 3, 1], np.uint8), "'label' (mask.jpeg)", "JPEG changes values"),
        (np.array([0, 255, 0], np.uint8), "mask.png", "255 stands for 1"),
        (np.full((3, 6, 7), 90, np.uint8), "mask.png", "colour picture"),
        (np.full((6, 7, 4), 90, np.uint8), "mask.png", "colour picture"),
        (np.array([0, 3, 1], np.uint8), "mask.png", "nearest neighbour"),
    ],
)
def test_the_message_guesses_what_happened(labels: np.ndarray, source: str | None, guess: str) -> None:
    with pytest.raises(LabelError, match=guess):
        TABLE.check(labels, source=source)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1.5, 0.25]), r"seg\.png: 2 of 3 values are not whole numbers \(first: 1.5\).*nearest neighbour"),
        (torch.tensor([0, 0.5], dtype=torch.bfloat16), "1 of 2 values are not whole"),
        (np.array([0, np.nan], np.float32), r"1 of 2 .*first: nan"),
        (torch.tensor([0, float("inf")]), r"1 of 2 .*first: inf"),
        (np.zeros((0, 4)), "no voxels"),
        (np.zeros(3, np.complex64), "complex64, not ids"),
        (torch.zeros(3, dtype=torch.complex64), "complex numbers"),
        (np.zeros(3, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxels are colours"),
        (np.array(["brain"]), "not ids"),
    ],
)
def test_what_is_no_map_of_ids_is_refused(labels: np.ndarray | torch.Tensor, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        TABLE.check(labels, source="seg.png")


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float16, 2047), (torch.float32, 2**24 - 1), (torch.float64, 2**53 - 1)]
)
def test_floats_that_cannot_tell_ids_apart_are_refused(dtype: torch.dtype, largest: int) -> None:
    assert whole_numbers(torch.tensor([largest], dtype=torch.int64).to(dtype)).tolist() == [largest]
    with pytest.raises(LabelError, match=rf"{largest + 1} in {str(dtype)[6:]}.*dtype=np\.int64"):
        whole_numbers(torch.tensor([largest + 1], dtype=torch.int64).to(dtype))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "empty"),
        ({-1: "void"}, "Id -1"),
        ({1.0: "brain"}, "Id 1.0 .* not a whole number"),
        ({"one": "brain"}, "'one'"),
        ({True: "brain"}, "Id True"),
        ({0: ""}, "Id 0 has the name ''"),
        ({0: None}, "Id 0 has the name None"),
        ({0: "a", 1: "a"}, "the name 'a' several times"),
        ({1: "a", "1": "b"}, "the id 1 several times"),
        ([(3, "a"), (3, "b")], "the id 3 several times"),
        (["background", "brain"], "from_names"),
        (3, "from_names"),
    ],
)
def test_unsound_tables_are_refused(labels: dict, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        LabelTable(labels)


def test_an_unsound_unknown_id_is_refused() -> None:
    with pytest.raises(LabelError, match="Id -1"):
        LabelTable({0: "background"}, unknown_id=-1)


@pytest.mark.parametrize("table", [TABLE, LabelTable({7: "a", 0: "b"}, unknown_id=7), LabelTable({0: "b"}, 255)])
def test_description_survives_json_with_sorted_keys(table: LabelTable) -> None:
    description = json.loads(json.dumps(table.to_dict(), sort_keys=True))

    assert LabelTable.from_dict(description) == table
    assert LabelTable.of(description) == table
    assert pickle.loads(pickle.dumps(table)) == table  # noqa: S301 - as workers of a data loader get it
    assert len({table, LabelTable.from_dict(description)}) == 1


@pytest.mark.parametrize(
    "description",
    [{}, {"ids": [0]}, {"ids": [0, 1], "names": ["a"]}, {"ids": [0], "names": ["a"], "unkown_id": 3}],
)
def test_wrong_descriptions_are_refused(description: dict) -> None:
    with pytest.raises(ConfigError, match="as many 'names'"):
        LabelTable.from_dict(description)


def test_configurations_may_hold_several_forms(tmp_path: Path) -> None:
    expected = LabelTable({0: "background", 1: "brain"})
    (tmp_path / "labels.csv").write_text("id,name\n0,background\n1,brain\n")

    assert LabelTable.of({"0": "background", "1": "brain"}) == expected
    assert LabelTable.of(["background", "brain"]) == expected
    assert LabelTable.of(str(tmp_path / "labels.csv")) == expected
    assert LabelTable.of(3).names == ("class 0", "class 1", "class 2")
    with pytest.raises(ConfigError, match="no label table"):
        LabelTable.of(1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no label table"):
        LabelTable.of(True)
    with pytest.raises(LabelError, match="empty"):
        LabelTable.of(0)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_has_columns_id_and_name(tmp_path: Path, separator: str) -> None:
    rows = [["Name", "r", "ID "], ['"Left, lateral"', "120", "4"], ["White; matter", "245", "2"], ["", "", ""]]
    if separator == ";":
        rows[2][0] = '"White; matter"'
    file = tmp_path / "table.csv"
    file.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    table = LabelTable.from_csv(file, unknown_id=2)

    assert table.ids == (4, 2)
    assert table.names == ("Left, lateral", "White; matter")
    assert table.unknown_channel == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with ''"),
        (b"label,name\n1,a\n", "'label,name'; a label table starts with the header 'id,name'"),
        (b"id,name\n", "the label table is empty"),
        (b"id,name\n0,a\n0,b\n", "the id 0 several times"),
        (b"id,name\n0\n", "no id or no name"),
        (b"id,name\n1.0,a\n", "not a whole number"),
        (b"id,name\n0,\xff\n", "UTF-8"),
    ],
)
def test_unsound_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(LabelError, match=rf"(?i)table\.csv.*{message}"):
        LabelTable.from_csv(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"absent\.csv cannot be read"):
        LabelTable.from_csv(tmp_path / "absent.csv")


def test_channels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(LabelError, match="from 0 to 3 do not fit a table of 3 classes"):
        TABLE.to_ids(torch.tensor([0, 3]))
    with pytest.raises(LabelError, match="from -1 to 0 .* without unknown_id"):
        TABLE.to_ids(np.array([0, -1]))


def test_real_label_maps_of_ct(shared_dir: Path) -> None:
    folder = shared_dir / "data/B_ct_labels/TotalSegmentator_testfiles/example_ct"
    image = nib.load(folder / "labels.nii.gz")
    labels = np.asanyarray(image.dataobj)
    table = LabelTable({int(k): f"structure {k}" for k in np.unique(labels)})

    table.check(labels)
    table.check(image.get_fdata())
    np.testing.assert_array_equal(table.to_ids(table.to_channels(labels)), labels)
    lacking = LabelTable({label: f"structure {label}" for label in table.ids if label != table.ids[-1]})
    with pytest.raises(LabelError, match=rf"{table.ids[-1]} \({(labels == table.ids[-1]).sum()} voxels\)"):
        lacking.check(labels)

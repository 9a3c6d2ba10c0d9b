"""A model is not tested on the patients it has seen."""

import pytest

from monai_synth.engines import refuse_leakage
from monai_synth.errors import LeakageError

RECORD = {"manifest": {"patients": {"train": ["a", "b"], "val": ["c"], "test": ["d"]}}}


@pytest.mark.parametrize(
    ("patients", "split"),
    [(["d", "e"], "test"), (["c"], "val"), (["a"], "train"), (["a", "c"], "train"), (["x"], "other")],
)
def test_patients_that_may_be_evaluated(patients: list[str], split: str) -> None:
    refuse_leakage(RECORD, patients, split=split)


@pytest.mark.parametrize(
    ("patients", "split", "role"),
    [(["d", "a"], "test", "train"), (["c"], "test", "val"), (["b"], "val", "train"), (["a"], "other", "train")],
)
def test_patients_that_may_not(patients: list[str], split: str, role: str) -> None:
    with pytest.raises(LeakageError, match=f"belonged to the model's '{role}' patients .*--split {role}"):
        refuse_leakage(RECORD, patients, split=split)


def test_a_model_without_a_record_cannot_be_checked() -> None:
    refuse_leakage({}, ["a"], split="test")

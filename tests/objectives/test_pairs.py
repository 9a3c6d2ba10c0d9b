import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.objectives.pairs import refuse_unpaired, require_unpaired


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"case_id": ["a", "b"]},
        {"target_case_id": ["a", "b"]},
        {"case_id": ["a", "b"], "target_case_id": ("a", "b")},
        {"case_id": "a", "target_case_id": ["a"]},
        {"case_id": torch.tensor([3, 4]), "target_case_id": torch.tensor([3, 4])},
    ],
)
def test_pairs_and_batches_of_single_cases_pass(batch):
    refuse_unpaired(batch)


@pytest.mark.parametrize(
    ("conditions", "targets", "message"),
    [
        (["a", "b", "c"], ["a", "x", "y"], r"2 of 3 items .*\(first: 'b' and 'x'\).*CycleGan, Cut"),
        (["a", "b"], ["b", "a"], r"2 of 2 items"),
        (["a", "b"], ["a"], r"1 of 2 items"),
        ("a", "b", r"1 of 1 items .*\(first: 'a' and 'b'\)"),
        (torch.tensor([3, 4]), torch.tensor([3, 5]), r"\(first: '4' and '5'\)"),
    ],
)
def test_items_of_different_cases_are_named(conditions, targets, message):
    with pytest.raises(ConfigError, match=message):
        refuse_unpaired({"case_id": conditions, "target_case_id": targets})


def test_what_an_unpaired_method_lacks_is_named():
    image = torch.zeros(1, 1, 4, 4)
    assert require_unpaired({"target": image}, "target", method="Cut") is image
    with pytest.raises(ConfigError, match=r"Cut needs 'condition', but the batch has none \(it has: target\)"):
        require_unpaired({"target": image}, "condition", method="Cut")

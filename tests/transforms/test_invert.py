"""Synthetic images go back to the grid of their label map without blocks, whatever the map was resampled by."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Flipd, Invertd, Orientationd, Resized, Spacingd

from monai_synth.errors import ConfigError
from monai_synth.transforms import InvertSmoothlyd, OneHotd


def ramp(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Positions 0 to 1 of the centres of the voxels along an axis, on the grid of the image, with two channels."""
    shape = [1] * image.ndim
    shape[axis] = image.shape[axis]
    line = ((torch.arange(image.shape[axis]) + 0.5) / image.shape[axis]).reshape(shape)
    return torch.cat([line.expand(1, *image.shape[1:]), 1 - line.expand(1, *image.shape[1:])])


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear"])
@pytest.mark.parametrize(("native", "longest"), [((90, 67), 32), ((23, 41), 64)])
def test_a_ramp_in_a_picture_stays_a_ramp(mode: str, native: tuple[int, int], longest: int) -> None:
    before = Compose(
        [Flipd("condition", 0), Resized("condition", longest, size_mode="longest", mode=mode), OneHotd("condition", 2)]
    )
    item = before({"condition": MetaTensor(torch.ones(1, *native))})
    item["pred"] = ramp(item["condition"], axis=1)
    back = InvertSmoothlyd("pred", before, "condition")(item)["pred"]
    expected = ramp(torch.empty(1, *native), axis=1).flip(1)
    inner = slice(2, -2)  # beyond the centres of the outermost pixels there is nothing to interpolate
    assert back.shape == (2, *native)
    torch.testing.assert_close(back[:, inner].as_tensor(), expected[:, inner], atol=1e-3, rtol=0)


def test_a_ramp_in_a_volume_stays_a_ramp_and_margins_come_back_empty() -> None:
    affine = np.diag([-1.3, 1.3, 4.0, 1.0])
    labels = torch.zeros(1, 20, 18, 9)
    labels[:, 3:17, 2:16] = 1
    before = Compose(
        [
            Orientationd("condition", "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("condition", (2.0, 2.0, 2.0), mode="nearest"),
            CropForegroundd("condition", source_key="condition"),
        ]
    )
    item: dict[Any, Any] = before({"condition": MetaTensor(labels, affine=affine)})
    trace = str(item["condition"].applied_operations)
    item["pred"] = MetaTensor(ramp(item["condition"], axis=1))
    native = InvertSmoothlyd("pred", before, "condition")(item)["pred"]
    blocks = Invertd("pred", before, "condition", nearest_interp=False)(item)["pred"]
    np.testing.assert_allclose(native.affine, affine)
    inside = (slice(0, 1), slice(6, 14), slice(5, 13), slice(1, -1))
    steps = -native[inside].as_tensor().diff(dim=1)
    assert steps.std() < 1e-3 < steps.mean()
    assert blocks[inside].as_tensor().diff(dim=1).std() > 1e-2  # what MONAI's own gives: the reason for this class
    assert native[0, 0, 0].abs().max() == 0
    assert str(item["condition"].applied_operations) == trace
    assert torch.equal(torch.as_tensor(item["condition"]).unique(), torch.tensor([1.0]))


def test_steps_that_resample_nothing_give_back_the_very_values() -> None:
    before = Compose([Flipd("condition", 1), OneHotd("condition", 2)])
    item = before({"condition": MetaTensor(torch.zeros(1, 5, 7)), "case_id": "7"})
    image = torch.rand(3, 5, 7)
    out = InvertSmoothlyd(["pred", "other"], before, "condition", allow_missing_keys=True)(item | {"pred": image})
    assert torch.equal(out["pred"].as_tensor(), image.flip(2))
    assert out["case_id"] == "7"


@pytest.mark.parametrize("given", [{}, {"condition": torch.zeros(2, 4, 4)}])
def test_a_condition_without_a_trace_is_refused(given: dict[str, Any]) -> None:
    item: dict[Any, Any] = given | {"pred": torch.zeros(1, 4, 4)}
    with pytest.raises(ConfigError, match=r"'pred'.*'condition' is .*not a MetaTensor.*orig_keys"):
        InvertSmoothlyd("pred", Compose([Flipd("condition", 0)]), "condition")(item)

import numpy as np
import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import TotalVariationLoss
from monai_synth.losses.total_variation import TOTAL_VARIATIONS

OFFICIAL = {
    "l1": "l1_mean_sum_of_axes",
    "l2": "l2_mean_sum_of_axes",
    "jxgu": "l2_jxgu",
    "kornia": "l1_sum_per_image_kornia",
}


@pytest.mark.parametrize("definition", TOTAL_VARIATIONS)
def test_equals_the_reference_values_and_gradients(shared_dir, definition):
    golden = np.load(shared_dir / "golden" / "loss_tv.npz")
    image = torch.from_numpy(golden["in/x"]).requires_grad_()
    loss = TotalVariationLoss(definition)(image)
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"out/{OFFICIAL[definition]}"].item(), rel=1e-6)
    np.testing.assert_allclose(image.grad.numpy(), golden[f"grad/{OFFICIAL[definition]}"], atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("definition", TOTAL_VARIATIONS)
def test_volumes_have_a_third_axis_and_constants_no_variation(definition):
    loss = TotalVariationLoss(definition)
    ramp = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(2, 1, 4, 3, 5)
    differences = 2 * 3 * 3 * 5
    assert loss(ramp).item() == {"l1": 1, "l2": 1, "jxgu": 2, "kornia": differences}[definition]
    assert loss(ramp.movedim(2, 4)).item() == loss(ramp).item()
    assert loss(torch.full((1, 2, 5, 6), 0.3)).item() == 0


def test_an_axis_of_one_voxel_is_no_reason_for_nan():
    image = torch.rand(1, 1, 1, 1, requires_grad=True)
    loss = TotalVariationLoss()(image)
    loss.backward()
    assert loss.item() == 0
    assert image.grad.item() == 0
    assert TotalVariationLoss()(torch.tensor([[[[0.0, 1.0, 0.0]]]])).item() == 1


def test_computes_in_float32_and_refuses_nonsense():
    assert TotalVariationLoss()(torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(ConfigError, match=r"'l3'.*l1, l2, jxgu, kornia"):
        TotalVariationLoss("l3")
    with pytest.raises(GeometryError, match=r"\[4, 4\]"):
        TotalVariationLoss()(torch.zeros(4, 4))

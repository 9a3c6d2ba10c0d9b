import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.metrics.image import masked_mae, masked_me, masked_psnr, masked_rmse

SCORES = [masked_mae, masked_me, masked_rmse, lambda x, y, mask=None: masked_psnr(x, y, data_range=4024, mask=mask)]


@pytest.fixture(params=[(2, 3, 5, 7), (3, 1, 4, 5, 6)], ids=["2d", "3d"])
def batch(request):
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(request.param, generator=generator) * 300
    prediction = target + torch.randn(request.param, generator=generator) * 40
    mask = (torch.rand((request.param[0], 1, *request.param[2:]), generator=generator) > 0.4).float()
    return prediction, target, mask


def test_by_hand():
    target = torch.zeros(1, 1, 2, 2)
    prediction = torch.tensor([[[[3.0, -1.0], [100.0, 4.0]]]])
    mask = torch.tensor([[[[1, 1], [0, 1]]]])
    assert masked_mae(prediction, target, mask=mask).tolist() == pytest.approx([8 / 3])
    assert masked_me(prediction, target, mask=mask).tolist() == pytest.approx([2.0])
    assert masked_rmse(prediction, target, mask=mask).tolist() == pytest.approx([(26 / 3) ** 0.5])
    assert masked_psnr(prediction, target, data_range=100, mask=mask).tolist() == pytest.approx(
        [10 * np.log10(1e4 * 3 / 26)]
    )


@pytest.mark.parametrize("with_mask", [True, False])
def test_equals_skimage_case_by_case(batch, with_mask):
    prediction, target, mask = batch
    mask = mask if with_mask else None
    rmse = masked_rmse(prediction, target, mask=mask)
    psnr = masked_psnr(prediction, target, data_range=4024, mask=mask)
    assert rmse.shape == psnr.shape == (len(target),)
    for case in range(len(target)):
        inside = (mask[case] > 0).expand(target[case].shape) if with_mask else torch.ones_like(target[case]) > 0
        x, y = prediction[case][inside].double().numpy(), target[case][inside].double().numpy()
        assert rmse[case].item() == pytest.approx(mean_squared_error(y, x) ** 0.5, rel=1e-9)
        assert psnr[case].item() == pytest.approx(peak_signal_noise_ratio(y, x, data_range=4024), rel=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_empty_mask_is_nan_for_its_case_only(batch, score):
    prediction, target, mask = batch
    mask[0] = 0
    values = score(prediction, target, mask=mask)
    assert values[0].isnan()
    assert values[1:].isfinite().all()


@pytest.mark.parametrize("score", SCORES)
def test_nan_outside_the_mask_does_not_count(batch, score):
    prediction, target, mask = batch
    expected = score(prediction, target, mask=mask)
    spoiled = prediction.masked_fill(mask.expand(prediction.shape) == 0, float("nan"))
    torch.testing.assert_close(score(spoiled, target, mask=mask), expected, rtol=0, atol=0)


def test_sign_of_the_mean_error(batch):
    _, target, mask = batch
    assert masked_me(target + 25, target, mask=mask).tolist() == pytest.approx([25] * len(target), abs=1e-4)


def test_identical_images(batch):
    _, target, mask = batch
    assert masked_psnr(target, target, data_range=1, mask=mask).isposinf().all()
    assert masked_mae(target, target, mask=mask).tolist() == [0] * len(target)


def test_meta_tensors_give_plain_values(batch):
    values = masked_mae(MetaTensor(batch[0]), MetaTensor(batch[1]), mask=MetaTensor(batch[2]))
    assert type(values) is torch.Tensor
    torch.testing.assert_close(values, masked_mae(batch[0], batch[1], mask=batch[2]))


def test_wrong_input_is_named(batch):
    prediction, target, mask = batch
    with pytest.raises(GeometryError, match="prediction has shape"):
        masked_mae(prediction[..., 1:], target)
    with pytest.raises(GeometryError, match="mask has shape"):
        masked_mae(prediction, target, mask=mask[:, 0])
    with pytest.raises(ConfigError, match="data_range is 0"):
        masked_psnr(prediction, target, data_range=0)

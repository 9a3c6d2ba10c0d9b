import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.equalized import (
    Blur,
    EqualizedConv,
    EqualizedLinear,
    append_minibatch_deviation,
)
from monai_synth.networks.haar import HaarDown, HaarUp


def tile(x: torch.Tensor) -> torch.Tensor:
    """Bands beside each other: low, high along the columns; below them high along the rows, high along both."""
    ll, lh, hl, hh = HaarDown()(x).chunk(4, dim=1)
    return torch.cat([torch.cat([ll, hl], dim=3), torch.cat([lh, hh], dim=3)], dim=2)


def test_equals_the_official_transform(golden_case):
    case = golden_case("mis_haar")
    down, up = HaarDown(), HaarUp()
    image, bands = case.tensor("in/x"), case.tensor("in/z")
    pairs = [
        (down(image), "out/haar"),
        (up(down(image)), "out/inverse_of_haar"),
        (up(bands), "out/inverse"),
        (down(up(bands)), "out/haar_of_inverse"),
    ]
    for ours, key in pairs:
        assert torch.allclose(ours, case.tensor(key), atol=1e-6), key


def test_equals_the_official_transform_of_two_levels(golden_case):
    case = golden_case("mis_haar")
    image = case.tensor("in/q")
    tiled = tile(image)
    tiled[..., :16, :16] = tile(tiled[..., :16, :16])
    assert torch.allclose(tiled, case.tensor("out/haar_2level_tiled"), atol=1e-6)
    assert torch.allclose(image, case.tensor("out/inv_2level_tiled"), atol=1e-6)


def test_equals_the_official_halving(golden_case):
    case = golden_case("mis_haar")
    blur = Blur(spatial_dims=2, channels=3, padding=1, stride=2)
    assert torch.allclose(blur(case.tensor("in/x")), case.tensor("out/upfirdn_down2"), atol=1e-6)


def test_equals_the_official_blur_of_the_same_size(golden_case):
    # Padded by two before and one behind; no network needs it, but the blur with two on both sides holds it.
    case = golden_case("mis_haar")
    blur = Blur(spatial_dims=2, channels=3, padding=2)
    image = case.tensor("in/x")
    assert torch.allclose(blur(image)[..., :-1, :-1], case.tensor("out/upfirdn_same"), atol=1e-6)
    # Doubling is the same blur with zeros between the values.
    spread = torch.zeros(2, 3, 32, 48)
    spread[..., ::2, ::2] = image
    assert torch.allclose(blur(spread)[..., :-1, :-1], case.tensor("out/upfirdn_up2"), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 3, 6, 10), (1, 2, 4, 6, 2)])
def test_is_orthonormal_and_its_own_inverse(size, dtype):
    x = torch.randn(size, dtype=dtype)
    bands = HaarDown()(x)
    assert bands.dtype == dtype
    assert bands.shape == (size[0], size[1] * 2 ** (len(size) - 2), *(length // 2 for length in size[2:]))
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    assert torch.allclose(HaarUp()(bands), x, atol=tolerance)
    assert float((bands.float().norm() / x.float().norm() - 1).abs()) <= tolerance


def test_bands_are_in_the_order_of_the_axes():
    # One step along each axis in turn: the band that answers has bit i set for axis i.
    for axis in range(3):
        x = torch.zeros(1, 1, 2, 2, 2)
        x.select(axis + 2, 0).fill_(1)
        bands = HaarDown()(x).flatten()
        assert sorted(bands.nonzero().flatten().tolist()) == [0, 2**axis]
    assert torch.allclose(HaarDown()(torch.ones(1, 1, 2, 2)).flatten(), torch.tensor([2.0, 0, 0, 0]))


def test_memory_format_is_kept():
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    bands = HaarDown()(x)
    assert bands.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(bands, HaarDown()(x.contiguous()))


def test_nothing_is_in_the_state_dict():
    modules = [HaarDown(), HaarUp(), Blur(spatial_dims=2, channels=3, padding=1)]
    assert not any(module.state_dict() for module in modules)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(GeometryError, match=r"size \[4, 5\].*must be even"):
        HaarDown()(torch.zeros(1, 1, 4, 5))
    with pytest.raises(ConfigError, match=r"6 channels.*4 bands in 2D"):
        HaarUp()(torch.zeros(1, 6, 4, 4))


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_both_derivatives_of_the_blur_are_right(spatial_dims, padding):
    blur = Blur(spatial_dims=spatial_dims, channels=2, padding=padding).double()
    x = torch.randn(1, 2, *(3, 4, 3)[:spatial_dims], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(blur, x)
    assert torch.autograd.gradgradcheck(blur, x)


def test_the_blur_works_with_half_precision_in_both_directions():
    blur = Blur(spatial_dims=2, channels=2, padding=2)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blurred = blur(x)
    assert blurred.dtype == torch.bfloat16
    blurred.float().sum().backward()
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad[..., 3:5, 3:5], torch.ones(2, 2), atol=0.02)


def test_equalized_layers_keep_the_spread():
    torch.manual_seed(0)
    x = torch.randn(8, 64, 16, 16)
    conv = EqualizedConv(spatial_dims=2, in_channels=64, out_channels=64, kernel_size=3, padding=1)
    assert abs(float(conv.weight.std()) - 1) < 0.02
    # LeakyReLU(0.2) leaves (1 + 0.04) / 2 of the power, the gain of sqrt(2) doubles it.
    assert abs(float((conv(x)[..., 1:-1, 1:-1] ** 2).mean()) - 1.04) < 0.1
    expected = functional.conv2d(x, conv.weight / (64 * 9) ** 0.5, padding=1)
    assert torch.allclose(conv(x), functional.leaky_relu(expected, 0.2) * 2**0.5, atol=1e-5)
    linear = EqualizedLinear(64, 256, has_activation=False)
    assert abs(float(linear(x.mean((2, 3)) * 16).std()) - 1) < 0.1


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (4, 4), (8, 4), (6, 3), (5, 5)])
def test_deviation_is_that_of_a_group(batch, group):
    x = torch.randn(batch, 3, 4, 2)
    out = append_minibatch_deviation(x)
    assert torch.equal(out[:, :3], x)
    for i in range(batch):
        mates = x[i % (batch // group) :: batch // group]
        expected = (mates.var(0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(out[i, 3], expected.expand(4, 2), atol=1e-6)

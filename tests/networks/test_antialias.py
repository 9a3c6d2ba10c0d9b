import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError
from monai_synth.networks.antialias import BLUR_DOWN_TAPS, BLUR_UP_TAPS, BlurDown, BlurUp, blur_kernel

CASES = [(2, (2, 3, 8, 11)), (3, (2, 3, 4, 7, 6))]
TRANSPOSED = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def blur_up_by_convolution(x, spatial_dims):
    """The definition: repeat the border, transposed convolution of stride 2, crop to twice the size."""
    kernel = blur_kernel(BLUR_UP_TAPS, spatial_dims=spatial_dims).to(x.dtype) * 2**spatial_dims
    kernel = kernel.expand(x.shape[1], 1, *kernel.shape)
    padded = functional.pad(x, [1] * 2 * spatial_dims, mode="replicate")
    y = TRANSPOSED[spatial_dims](padded, kernel, stride=2, padding=2, groups=x.shape[1])
    for axis in range(2, y.ndim):
        y = y.narrow(axis, 1, y.shape[axis] - 2)
    return y


@pytest.mark.parametrize(("spatial_dims", "shape"), CASES)
def test_down_blurs_and_halves(spatial_dims, shape):
    x = torch.randn(shape)
    expected = functional.pad(x, [1] * 2 * spatial_dims, mode="reflect")
    for axis in range(2, x.ndim):  # separable: one axis after the other, then every second value
        size = expected.shape[axis] - 2
        left, middle, right = (expected.narrow(axis, start, size) for start in range(3))
        expected = ((left + 2 * middle + right) / 4).index_select(axis, torch.arange(0, size, 2))
    out = BlurDown(spatial_dims=spatial_dims, channels=3)(x)
    assert out.shape == (2, 3, *((n + 1) // 2 for n in shape[2:]))
    assert torch.allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize(("spatial_dims", "shape"), CASES)
def test_up_is_the_transposed_convolution_with_1331(spatial_dims, shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out, expected = BlurUp(spatial_dims=spatial_dims)(x), blur_up_by_convolution(x, spatial_dims)
    assert out.shape == (2, 3, *(2 * n for n in shape[2:]))
    assert torch.allclose(out, expected, atol=1e-12)
    weight = torch.randn_like(out)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (out, expected)]
    assert torch.allclose(*grads, atol=1e-12)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_constants_stay_constant(spatial_dims):
    x = torch.full((1, 2, *[6] * spatial_dims), 0.7)
    for layer in (BlurDown(spatial_dims=spatial_dims, channels=2), BlurUp(spatial_dims=spatial_dims)):
        assert torch.allclose(layer(x), torch.tensor(0.7))


def test_kernels_are_constants():
    layers = torch.nn.Sequential(BlurDown(spatial_dims=3, channels=4), BlurUp(spatial_dims=3))
    assert not layers.state_dict()
    assert not list(layers.parameters())
    assert layers[0].kernel.shape == (4, 1, 3, 3, 3)
    assert layers.to(torch.bfloat16)[0].kernel.dtype == torch.bfloat16
    # Sums of halves: exact in every precision.
    assert torch.equal(layers[0].kernel.float()[0, 0], blur_kernel(BLUR_DOWN_TAPS, spatial_dims=3))


def test_four_dimensions_are_refused():
    for make in (lambda: BlurDown(spatial_dims=4, channels=2), lambda: BlurUp(spatial_dims=1)):
        with pytest.raises(ConfigError, match="spatial_dims"):
            make()

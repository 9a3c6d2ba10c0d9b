"""Convolutions of small maps as matrix products: those of torch, as exact, and only where they are meant to be."""

import copy

import pytest
import torch
from torch import nn

from monai_synth.networks import small_maps
from monai_synth.networks.small_maps import SmallMapConv2d, SmallMapConvTranspose2d, conv_type
from monai_synth.networks.spectral_norm import spectral_norm

LAYERS = [
    pytest.param(SmallMapConv2d, nn.Conv2d, {"kernel_size": 3, "padding": 1}, id="conv 3"),
    pytest.param(SmallMapConv2d, nn.Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}, id="conv 4"),
    pytest.param(SmallMapConv2d, nn.Conv2d, {"kernel_size": (1, 3), "stride": (2, 1)}, id="conv uneven"),
    pytest.param(
        SmallMapConvTranspose2d, nn.ConvTranspose2d, {"kernel_size": 4, "stride": 2, "padding": 1}, id="transposed 4"
    ),
    pytest.param(
        SmallMapConvTranspose2d,
        nn.ConvTranspose2d,
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False},
        id="transposed 3",
    ),
]
LAYOUTS = {"rows": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture
def products(monkeypatch):
    """Take the products from the smallest weights on, and count them."""
    monkeypatch.setattr(small_maps, "_FEWEST_WEIGHTS", 1)
    counted = []
    as_images = small_maps._as_images
    monkeypatch.setattr(small_maps, "_as_images", lambda *given: counted.append(1) or as_images(*given))
    return counted


def _pair(ours, theirs, options, layout):
    torch.manual_seed(0)
    layer = ours(12, 10, **options).to(memory_format=LAYOUTS[layout])
    twin = theirs(12, 10, **options)
    twin.load_state_dict(layer.state_dict(), strict=True)
    return layer, twin


def _run(layer, x, *, is_reduced):
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_reduced):
        out = layer(leaf)
    layer.zero_grad()
    torch.sin(out.float()).sum().backward()
    return [out.detach(), leaf.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("ours", "theirs", "options"), LAYERS)
def test_outputs_and_gradients_are_as_near_to_fp32_as_those_of_torch(products, ours, theirs, options, layout, batch):
    layer, twin = _pair(ours, theirs, options, layout)
    x = torch.randn(batch, 12, 6, 8).contiguous(memory_format=LAYOUTS[layout])
    exact = _run(twin, x, is_reduced=False)
    reduced = _run(twin, x, is_reduced=True)
    found = _run(layer, x, is_reduced=True)
    assert len(products) == 1
    assert found[0].dtype is torch.bfloat16
    assert found[0].is_contiguous(memory_format=LAYOUTS[layout])
    for value, theirs_, wanted in zip(found, reduced, exact, strict=True):
        assert value.shape == wanted.shape
        error, allowed = ((v.float() - wanted).square().mean().sqrt() for v in (value, theirs_))
        assert error <= 1.25 * allowed + 1e-6
    for parameter, gradient in zip(layer.parameters(), found[2:], strict=True):
        assert gradient.stride() == parameter.stride()


@pytest.mark.parametrize(("ours", "theirs", "options"), LAYERS)
def test_float32_large_maps_and_bfloat16_weights(products, ours, theirs, options):
    layer, twin = _pair(ours, theirs, options, "rows")
    x = torch.randn(1, 12, 6, 8)
    assert torch.equal(layer(x), twin(x))
    large = torch.randn(1, 12, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(large), twin(large))
    with torch.autocast("cpu", torch.float16):
        assert layer(x).dtype is torch.float16
    assert not products
    out = layer.bfloat16()(x.bfloat16())
    assert len(products) == 1
    assert torch.allclose(out.float(), twin(x), atol=0.05)


def test_few_weights_are_convolved():
    layer, twin = _pair(SmallMapConv2d, nn.Conv2d, {"kernel_size": 3}, "rows")
    x = torch.randn(1, 12, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), twin(x))


def test_options_that_a_product_does_not_have_are_convolved(products):
    x = torch.randn(1, 12, 6, 6)
    for options in ({"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        layer, twin = _pair(SmallMapConv2d, nn.Conv2d, {"kernel_size": 3, **options}, "rows")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), twin(x))
    assert not products


def test_a_spectral_norm_moves_once_a_forward(products):
    torch.manual_seed(0)
    layer = spectral_norm(SmallMapConv2d(12, 10, 3))
    twin = spectral_norm(nn.Conv2d(12, 10, 3))
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(1, 12, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        twin(x)
    assert products
    assert torch.equal(layer.parametrizations.weight[0]._u, twin.parametrizations.weight[0]._u)
    assert repr(layer) == repr(twin)


@pytest.mark.parametrize(("ours", "theirs", "options"), LAYERS)
def test_texts_scripts_and_traces_are_those_of_torch(products, ours, theirs, options):
    layer, twin = _pair(ours, theirs, options, "rows")
    assert repr(layer) == repr(twin)
    x = torch.randn(1, 12, 6, 8)
    assert torch.equal(torch.jit.script(copy.deepcopy(layer))(x), twin(x))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.no_grad():
        assert torch.equal(torch.jit.trace(layer, x, check_trace=False)(x), twin(x))
    assert not products


def test_volumes_have_the_layers_of_torch():
    assert conv_type(3) is nn.Conv3d
    assert conv_type(3, transposed=True) is nn.ConvTranspose3d

"""Ours against ``torch.nn.utils.spectral_norm``, which the published networks were trained with."""

import copy
import warnings

import pytest
import torch
from torch import nn

from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.blocks import init_weights
from monai_synth.networks.spectral_norm import SpectralNorm, fold_spectral_norm, has_spectral_norm, spectral_norm

LAYERS = [
    pytest.param(lambda: nn.Conv2d(3, 6, 3, padding=1), (2, 3, 5, 7), id="conv2d"),
    pytest.param(lambda: nn.Conv3d(4, 2, 3, bias=False), (2, 4, 5, 4, 6), id="conv3d"),
    pytest.param(lambda: nn.Linear(5, 8), (4, 5), id="linear"),
    pytest.param(lambda: nn.Conv2d(4, 1, 1), (2, 4, 3, 3), id="one output"),
]


def pair(make):
    """The same layer, normalised by torch's hook and by ours, in the same state."""
    torch.manual_seed(0)
    plain = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.utils.spectral_norm(copy.deepcopy(plain))
    ours = spectral_norm(plain)
    norm = norm_of(ours)
    norm._u.copy_(theirs.weight_u)
    norm._v.copy_(theirs.weight_v)
    return theirs, ours


def norm_of(layer) -> SpectralNorm:
    return layer.parametrizations.weight[0]


def original_of(layer) -> nn.Parameter:
    return layer.parametrizations.weight.original


def assert_same_state(theirs, ours):
    norm = norm_of(ours)
    for a, b in ((theirs.weight_orig, original_of(ours)), (theirs.weight_u, norm._u), (theirs.weight_v, norm._v)):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_trains_as_the_hook_of_torch(make, shape):
    layers = pair(make)
    optimisers = [torch.optim.Adam(layer.parameters(), lr=0.05) for layer in layers]
    for step in range(6):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        outputs, gradients = [], []
        for layer, optimiser in zip(layers, optimisers, strict=True):
            optimiser.zero_grad()
            leaf = x.clone().requires_grad_()
            out = layer(leaf)
            (out**2).sum().backward()
            outputs.append(out.detach())
            weight = layer.weight_orig if layer is layers[0] else original_of(layer)
            gradients.append([leaf.grad, weight.grad])
            optimiser.step()
        assert torch.allclose(*outputs, atol=1e-5)
        for a, b in zip(*gradients, strict=True):
            assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)
        assert_same_state(*layers)
        if step % 2:  # forwards without gradients move the vectors as well
            with torch.no_grad():
                assert torch.allclose(*(layer(x) for layer in layers), atol=1e-5)
            assert_same_state(*layers)
    for layer in layers:
        layer.eval()
    assert torch.allclose(*(layer(x) for layer in layers), atol=1e-5)


def test_v_moves_before_u_and_once_per_training_forward():
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    norm, matrix = norm_of(layer), original_of(layer).detach().flatten(1)
    norm._u.copy_(nn.functional.normalize(torch.randn(4), dim=0))
    expected_v = nn.functional.normalize(matrix.t() @ norm._u, dim=0)
    expected_u = nn.functional.normalize(matrix @ expected_v, dim=0)
    layer(torch.randn(1, 3, 3, 3))
    assert torch.allclose(norm._v, expected_v, atol=1e-6)
    assert torch.allclose(norm._u, expected_u, atol=1e-6)


def test_torchs_own_parametrization_steps_otherwise():
    # The reason why it is not used: from the same state it goes elsewhere.
    theirs, ours = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)), spectral_norm(nn.Linear(6, 4))
    state = {key: torch.randn(value.shape) for key, value in ours.state_dict().items()}
    assert theirs.state_dict().keys() == state.keys()
    for layer in (theirs, ours):
        layer.load_state_dict(state)
        layer(torch.zeros(1, 6))
    assert not torch.allclose(norm_of(theirs)._v, norm_of(ours)._v, atol=1e-2)


def test_the_start_is_near_the_largest_singular_value_and_training_finds_it():
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(8, 16, 3))
    assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.05)
    for _ in range(300):
        norm_of(layer).iterate(original_of(layer))
    assert float(torch.linalg.matrix_norm(layer.eval().weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-3)


def test_start_values_go_to_the_weight_before_normalisation():
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(32, 32, 3)).eval()
    init_weights(layer, "normal", 0.02)
    assert float(original_of(layer).detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.1)


def test_eval_and_a_frozen_norm_move_nothing():
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    norm = norm_of(layer)
    kept = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.eval()(torch.randn(1, 3, 3, 3))
    norm.is_frozen = True
    layer.train()(torch.randn(1, 3, 3, 3))
    assert all(torch.equal(kept[key], value) for key, value in layer.state_dict().items())
    norm.is_frozen = False
    layer(torch.randn(1, 3, 3, 3))
    assert not torch.equal(kept["parametrizations.weight.0._v"], norm._v)


def test_two_forwards_before_one_backward_have_the_gradients_of_the_hook():
    layers = pair(lambda: nn.Linear(5, 4))
    x, y = torch.randn(2, 5), torch.randn(2, 5)
    for layer in layers:
        (layer(x) * layer(y)).sum().backward()
    assert torch.allclose(layers[0].weight_orig.grad, original_of(layers[1]).grad, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape", "layout"),
    [
        (lambda: nn.Conv2d(5, 6, 3), (2, 5, 6, 4), torch.channels_last),
        (lambda: nn.Conv3d(3, 4, (1, 2, 3)), (2, 3, 4, 5, 6), torch.channels_last_3d),
    ],
)
def test_the_layout_of_the_weight_changes_nothing(make, shape, layout):
    torch.manual_seed(0)
    layer = spectral_norm(make())
    twin = copy.deepcopy(layer).to(memory_format=layout)
    assert original_of(twin).stride() != original_of(layer).stride()
    for step in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        outputs = [one(x) for one in (layer, twin)]
        assert torch.allclose(*outputs, atol=1e-6)
        for one, out in zip((layer, twin), outputs, strict=True):
            original_of(one).grad = None
            out.square().sum().backward()
        assert torch.allclose(original_of(layer).grad, original_of(twin).grad, atol=1e-5)
        assert original_of(twin).grad.stride() == original_of(twin).stride()
        for name in ("_u", "_v"):
            assert torch.allclose(getattr(norm_of(layer), name), getattr(norm_of(twin), name), atol=1e-6)


def test_the_gradient_is_that_of_autograd():
    torch.manual_seed(0)
    norm = norm_of(spectral_norm(nn.Linear(5, 4))).double().eval()
    weight = torch.randn(4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(norm, weight)


def test_a_penalty_on_the_gradient_of_the_input_reaches_the_weight():
    layers = pair(lambda: nn.Conv2d(2, 3, 3))
    for layer in layers:
        x = torch.ones(1, 2, 4, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert torch.allclose(layers[0].weight_orig.grad, original_of(layers[1]).grad, rtol=1e-4, atol=1e-4)


def test_a_deep_copy_lives_its_own_life():
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    kept = {key: value.clone() for key, value in layer.state_dict().items()}
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(layer.eval()(x), twin.eval()(x))
    optimiser = torch.optim.SGD(twin.parameters(), lr=1.0)
    twin.train()(x).sum().backward()
    optimiser.step()
    assert all(torch.equal(kept[key], value) for key, value in layer.state_dict().items())
    assert not torch.equal(layer(x), twin.eval()(x))


def test_folding_leaves_the_original_as_it_was():
    network = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 2, 1))
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_spectral_norm(network)
    assert network.training
    assert not folded.training
    assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items())
    assert has_spectral_norm(network[0])
    assert not has_spectral_norm(folded[0])
    assert type(folded[0]) is nn.Conv2d
    assert folded.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    x = torch.randn(1, 3, 5, 5)
    assert torch.allclose(network.eval()(x), folded(x), atol=1e-6)
    torch.jit.script(folded)
    # The original still trains, and the copy does not follow.
    before = folded(x)
    network.train()(x).sum().backward()
    assert original_of(network[0]).grad is not None
    assert torch.equal(folded(x), before)
    copy.deepcopy(network)(x)


@pytest.mark.parametrize("is_training", [False, True])
def test_autocast_does_not_blur_the_singular_value(is_training):
    layer, twin = (spectral_norm(nn.Conv2d(16, 16, 3)) for _ in range(2))
    twin.load_state_dict(layer.state_dict())
    layer.train(is_training)
    twin.train(is_training)
    exact = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = twin.weight
        out = twin(torch.randn(1, 16, 4, 4))
    assert rounded.dtype == torch.float32
    assert torch.equal(exact, rounded)
    assert out.dtype == torch.bfloat16


def test_a_state_dict_round_trips():
    layer, twin = spectral_norm(nn.Linear(4, 3)), spectral_norm(nn.Linear(4, 3))
    assert set(layer.state_dict()) == {
        "bias",
        "parametrizations.weight.original",
        "parametrizations.weight.0._u",
        "parametrizations.weight.0._v",
    }
    twin.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), twin(x))


def test_a_checkpointed_layer_iterates_once_per_forward():
    layer, twin = (spectral_norm(nn.Linear(4, 3)) for _ in range(2))
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, requires_grad=True)
    layer(x).sum().backward()
    run_checkpointed(twin, [x]).sum().backward()
    assert torch.equal(norm_of(layer)._u, norm_of(twin)._u)
    assert torch.allclose(original_of(layer).grad, original_of(twin).grad, atol=1e-6)
    assert not norm_of(twin).is_frozen

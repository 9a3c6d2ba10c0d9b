import copy

import pytest
import torch
from torch import nn

from monai_synth.networks import SPADEGenerator
from monai_synth.networks.activation_checkpointing import run_checkpointed
from monai_synth.networks.spade_block import SpadeResBlock


def make_block(**options):
    """Batch norm, spectral norm and two inputs: everything that a second computation could disturb."""
    torch.manual_seed(0)
    return SpadeResBlock(
        **{
            "spatial_dims": 2,
            "in_channels": 4,
            "out_channels": 6,
            "condition_channels": 2,
            "hidden_channels": 5,
            **options,
        }
    )


def make_inputs(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 4, size, size, generator=generator, requires_grad=True),
        torch.randn(2, 2, size, size, generator=generator),
    ]


def plainly(block, inputs):
    return block(*inputs)


def assert_same(block, twin):
    for p, q in zip(block.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-6)
    for a, b in zip(block.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_outputs_gradients_and_buffers_are_those_of_the_plain_call(norm):
    block = make_block(norm=norm)
    twin = copy.deepcopy(block)
    for seed in range(3):
        results = []
        for network, call in ((block, plainly), (twin, run_checkpointed)):
            inputs = make_inputs(seed)
            out = call(network, inputs)
            (out**2).sum().backward()
            results.append((out.detach(), inputs[0].grad))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
        assert_same(block, twin)


@pytest.mark.parametrize("is_first_backward_first", [True, False])
def test_two_forwards_before_the_backward_keep_their_own_vectors(is_first_backward_first):
    # A GAN step runs the same generator more than once before it goes back.
    block = make_block()
    twin = copy.deepcopy(block)
    for network, call in ((block, plainly), (twin, run_checkpointed)):
        losses = [(call(network, make_inputs(seed)) ** 2).sum() for seed in (0, 1)]
        for loss in losses if is_first_backward_first else losses[::-1]:
            loss.backward()
    assert_same(block, twin)


def test_a_product_of_two_forwards_has_the_plain_gradients():
    block = make_block()
    twin = copy.deepcopy(block)
    for network, call in ((block, plainly), (twin, run_checkpointed)):
        (call(network, make_inputs(0)) * call(network, make_inputs(1))).sum().backward()
    assert_same(block, twin)


def test_a_second_backward_through_the_same_graph_works():
    block = make_block()
    twin = copy.deepcopy(block)
    for network, call in ((block, plainly), (twin, run_checkpointed)):
        loss = (call(network, make_inputs(0)) ** 2).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same(block, twin)


def test_without_gradients_it_is_the_plain_call():
    block = make_block()
    twin = copy.deepcopy(block)
    with torch.no_grad():
        assert torch.equal(block(*make_inputs(0)), run_checkpointed(twin, make_inputs(0)))
    for a, b in zip(block.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


def test_dropout_draws_the_same_the_second_time():
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(0.5), nn.Conv2d(4, 4, 3))
    twin = copy.deepcopy(block)
    for network, call in ((block, plainly), (twin, run_checkpointed)):
        torch.manual_seed(3)
        call(network, make_inputs(0)[:1]).square().sum().backward()
    assert_same(block, twin)


def test_autocast_is_the_same_the_second_time():
    block = make_block()
    twin = copy.deepcopy(block)
    for network, call in ((block, plainly), (twin, run_checkpointed)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = call(network, make_inputs(0))
        out.float().square().sum().backward()
    assert_same(block, twin)


def test_the_norms_are_live_again_after_an_error():
    block = make_block()
    out = run_checkpointed(block, make_inputs(0)).sum()
    handle = block.norm_1.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    before = [buffer.clone() for buffer in block.buffers()]
    with pytest.raises(RuntimeError, match="no memory"):
        out.backward()
    handle.remove()
    assert not any(getattr(module, "is_frozen", False) for module in block.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, block.buffers(), strict=True))


def test_a_generator_keeps_far_fewer_activations():
    kept = {}
    for is_checkpointed in (False, True):
        network = SPADEGenerator(
            in_channels=2, channels=2, hidden_channels=16, activation_checkpointing=is_checkpointed
        )
        storages = {}

        def remember(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            network(torch.randn(2, 2, 64, 64))
        kept[is_checkpointed] = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    assert kept[True] < 0.2 * kept[False]

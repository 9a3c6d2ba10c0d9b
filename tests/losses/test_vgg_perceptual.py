import numpy as np
import pytest
import torch
from torch import nn

from monai_synth.errors import CheckpointError, ConfigError, GeometryError
from monai_synth.losses import VGGPerceptualLoss


@pytest.fixture
def golden(shared_dir):
    return np.load(shared_dir / "golden" / "loss_vgg.npz")


@pytest.fixture
def state(golden):
    return {key[3:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}


def as_torchvision(state):
    return {f"features.{key.split('.', 1)[1]}": value for key, value in state.items()} | {
        "classifier.0.weight": torch.zeros(2, 2)
    }


@pytest.mark.parametrize("source", ["slices", "torchvision file"])
def test_equals_the_official_loss_gradient_and_features(golden, state, tmp_path, source):
    weights = state
    if source == "torchvision file":
        weights = tmp_path / "vgg19.pth"
        torch.save(as_torchvision(state), weights)
    loss = VGGPerceptualLoss(weights)
    x, y = (torch.from_numpy(golden[f"in/{name}"]) for name in "xy")
    value = loss(x.requires_grad_(), y.requires_grad_())
    value.backward()
    assert value.item() == pytest.approx(golden["out/loss"].item(), rel=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), golden["grad/x"], atol=1e-8, rtol=1e-4)
    assert y.grad is None
    for index, features in enumerate(loss.features(x)):
        np.testing.assert_allclose(features.detach().numpy(), golden[f"out/feat_x/{index}"], atol=1e-5)


def test_stays_frozen_and_follows_autocast_only_with_its_input(golden, state):
    loss = VGGPerceptualLoss(state)
    nn.ModuleList([loss]).train()
    assert not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    x, y = (torch.from_numpy(golden[f"in/{name}"]) for name in "xy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, y)
    assert value.dtype == torch.float32
    assert value.item() == loss(x, y).item()


def test_one_channel_stands_for_three(golden, state):
    loss = VGGPerceptualLoss(state)
    x, y = (torch.from_numpy(golden[f"in/{name}"])[:, :1] for name in "xy")
    assert loss(x, y).item() == loss(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)).item()
    assert loss(x, x).item() == 0


def test_imagenet_normalisation_is_an_option(golden, state):
    x = torch.from_numpy(golden["in/x"])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((x + 1) / 2 - mean.reshape(1, 3, 1, 1)) / deviation.reshape(1, 3, 1, 1)
    plain, with_it = VGGPerceptualLoss(state), VGGPerceptualLoss(state, imagenet_normalisation=True)
    for ours, expected in zip(with_it.features(x), plain.features(normalised), strict=True):
        torch.testing.assert_close(ours, expected)
    assert plain.state_dict().keys() == with_it.state_dict().keys()


def test_weights_that_are_missing_or_of_another_network_are_refused(state, tmp_path):
    with pytest.raises(ConfigError, match=r"no VGG19 weights .*vgg19.pth.*Nothing is downloaded.*https"):
        VGGPerceptualLoss(tmp_path / "vgg19.pth")
    with pytest.raises(CheckpointError, match=r"2 of 26 entries are missing \(first: 'features.28.weight'\)"):
        VGGPerceptualLoss({key: value for key, value in state.items() if ".28." not in key})
    with pytest.raises(CheckpointError, match=r"'features.5.weight' has shape \[8, 8, 5, 5\]"):
        VGGPerceptualLoss({**state, "slice2.5.weight": torch.zeros(8, 8, 5, 5)})


def test_images_that_do_not_fit_are_refused(state):
    loss = VGGPerceptualLoss(state)
    with pytest.raises(GeometryError, match="1 or 3 channels"):
        loss(torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32))
    with pytest.raises(GeometryError, match="slice by slice"):
        loss(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16))
    with pytest.raises(GeometryError, match="at least 16"):
        loss(torch.zeros(1, 1, 32, 8), torch.zeros(1, 1, 32, 8))

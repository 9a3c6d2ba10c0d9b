import json

import numpy as np
import pytest
import torch
from torch import nn

from monai_synth.checkpoints.importers import import_state
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import gradient_penalty, r1_penalty
from monai_synth.networks import PatchDiscriminator


def load(shared_dir, name):
    golden = np.load(shared_dir / "golden" / f"{name}.npz")
    state = {key[3:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}
    imported = import_state(state, name, **({"image_size": (32, 32)} if name == "loss_mis" else {}))
    first = next(key for key in golden.files if key.startswith("grad/")).split("/")[-1]
    weight = dict(imported.network.named_parameters())[imported.report.used[first]]
    return golden, imported.network.train(), first, weight


def relative_gap(found, expected):
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("kind", ["mixed", "real", "fake"])
def test_equals_the_official_penalty_and_its_gradient(shared_dir, kind):
    golden, network, first, weight = load(shared_dir, "loss_p2p_gradient_penalty")
    config = json.loads(str(golden["config"]))
    real, fake, alpha = (torch.from_numpy(golden[f"in/{name}"]) for name in ("real", "fake", "alpha"))
    penalty = gradient_penalty(network, real, fake, kind=kind, constant=config["constant"], alpha=alpha)
    (config["lambda_gp"] * penalty).backward()
    assert config["lambda_gp"] * penalty.item() == pytest.approx(golden[f"out/gp_{kind}"].item(), rel=1e-5)
    assert relative_gap(weight.grad, golden[f"grad/gp_{kind}/{first}"]) < 1e-5


def test_equals_the_official_r1_penalty_and_its_gradient(shared_dir):
    golden, network, first, weight = load(shared_dir, "loss_mis")
    penalty = r1_penalty(network, torch.from_numpy(golden["in/real"]))
    penalty.backward()
    assert penalty.item() == pytest.approx(golden["out/r1"].item(), rel=1e-5)
    official = golden[f"grad/r1/{first}"]
    assert relative_gap(weight.grad.reshape(official.shape), official) < 1e-4


class Linear(nn.Module):
    """Sum of w x over all voxels, at two scales: the gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return [[x, self.weight * x], [x, 2 * self.weight * x]]


def test_the_gradient_is_that_of_all_scales_and_the_penalty_per_image():
    network, images = Linear(), torch.randn(3, 1, 4, 4)
    norm = 3 * 0.5 * 4  # three times the weight in each of 16 voxels
    assert r1_penalty(network, images).item() == pytest.approx(norm**2)
    assert gradient_penalty(network, images, -images, constant=2.0).item() == pytest.approx((norm - 2) ** 2)
    r1_penalty(network, images).backward()
    assert network.weight.grad.item() == pytest.approx(2 * 0.5 * 9 * 16)


def test_a_function_of_the_image_can_add_the_condition():
    torch.manual_seed(0)
    network = PatchDiscriminator(in_channels=3, channels=4, num_layers=1, norm="instance")
    condition, images = torch.randn(2, 2, 16, 16), torch.randn(2, 1, 16, 16)
    penalty = r1_penalty(lambda x: network(torch.cat([condition, x], dim=1)), images)
    penalty.backward()
    assert penalty.item() > 0
    assert network.layers[0].conv.weight.grad.abs().max() > 0
    whole = r1_penalty(network, torch.cat([condition, images], dim=1))
    assert penalty.item() < whole.item()


def test_alpha_is_drawn_from_the_global_generator_unless_it_is_given():
    torch.manual_seed(0)
    network = PatchDiscriminator(in_channels=1, channels=4, num_layers=1, norm="instance")
    real, fake = torch.randn(2, 3, 1, 16, 16)
    torch.manual_seed(7)
    drawn = gradient_penalty(network, real, fake)
    torch.manual_seed(7)
    assert gradient_penalty(network, real, fake).item() == drawn.item()
    ones = gradient_penalty(network, real, fake, alpha=torch.ones(3))
    assert ones.item() == pytest.approx(gradient_penalty(network, real, fake, kind="real").item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_float32_under_autocast_and_without_gradients_around(dtype):
    torch.manual_seed(0)
    network = PatchDiscriminator(in_channels=1, channels=4, num_layers=1, norm="instance")
    images = torch.randn(2, 1, 16, 16).to(dtype)
    expected = r1_penalty(network, images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = r1_penalty(network, images)
        mixed = gradient_penalty(network, images, -images)
    assert penalty.dtype == mixed.dtype == torch.float32
    assert penalty.item() == expected.item()
    with torch.no_grad():
        assert r1_penalty(network, images).item() == expected.item()


def test_a_flat_discriminator_gives_a_finite_gradient():
    network = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(network.weight)
    gradient_penalty(network, torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)).backward()
    assert network.weight.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"'both'.*mixed, real, fake"):
        gradient_penalty(Linear(), images, images, kind="both")
    with pytest.raises(GeometryError, match=r"\[2, 1, 8, 8\].*\[1, 1, 8, 8\]"):
        gradient_penalty(Linear(), images, images[:1])
    with pytest.raises(GeometryError, match="one share for each of the 2 images"):
        gradient_penalty(Linear(), images, images, alpha=torch.zeros(3))

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError
from monai_synth.losses import AdversarialLoss
from monai_synth.losses.adversarial import ADVERSARIAL_KINDS

OFFICIAL_NAMES = {"vanilla": "vanilla", "lsgan": "lsgan", "wgan": "wgangp"}


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize("kind", list(OFFICIAL_NAMES))
def test_equals_the_official_loss_and_gradient(golden_dir, kind, is_real):
    golden = np.load(golden_dir / "loss_p2p.npz")
    case = f"gan_{OFFICIAL_NAMES[kind]}_{'real' if is_real else 'fake'}"
    assert case in json.loads(str(golden["config"]))["cases"]
    logits = torch.from_numpy(golden[f"in/{case}/pred"]).requires_grad_()
    loss = AdversarialLoss(kind)([[logits]], is_real=is_real)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[f"out/{case}"].item(), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(logits.grad, golden[f"grad/{case}/pred"], atol=1e-7, rtol=1e-5)


def test_hinge_is_the_textbook_formula_without_squashing():
    logits = torch.tensor([-3.0, -0.5, 0.25, 2.0]).reshape(1, 1, 2, 2)
    loss = AdversarialLoss("hinge")
    assert loss(logits, is_real=True).item() == pytest.approx((4 + 1.5 + 0.75 + 0) / 4)
    assert loss(logits, is_real=False).item() == pytest.approx((0 + 0.5 + 1.25 + 3) / 4)
    assert loss(logits, is_real=True, for_discriminator=False).item() == pytest.approx(-logits.mean().item())


@pytest.mark.parametrize("turn", ["real_D", "fake_D", "real_G"])
@pytest.mark.parametrize(
    ("kind", "official"), [("vanilla", "original"), ("lsgan", "ls"), ("hinge", "hinge"), ("wgan", "w")]
)
def test_equals_the_official_loss_over_two_scales_of_features(shared_dir, kind, official, turn):
    golden = np.load(shared_dir / "golden" / "loss_spade.npz")
    case = f"gan_{official}_{turn}"
    scales = [[torch.from_numpy(golden[f"in/{case}/p{i}_{j}"]).requires_grad_() for j in range(4)] for i in range(2)]
    loss = AdversarialLoss(kind)(scales, is_real=turn != "fake_D", for_discriminator=turn != "real_G")
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[f"out/{case}"].item(), atol=1e-6, rtol=1e-6)
    for i, layers in enumerate(scales):
        assert all(layer.grad is None for layer in layers[:-1])
        np.testing.assert_allclose(layers[-1].grad, golden[f"grad/{case}/p{i}_3"], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("is_real", [True, False])
@pytest.mark.parametrize(("kind", "official"), [("lsgan", "lsgan"), ("vanilla", "bce")])
def test_equals_the_official_sum_over_two_scales(shared_dir, kind, official, is_real):
    golden = np.load(shared_dir / "golden" / "loss_p2phd.npz")
    case = f"gan_{official}_{'real' if is_real else 'fake'}"
    scales = [[torch.from_numpy(golden[f"in/{case}/p{i}_{j}"]).requires_grad_() for j in range(5)] for i in range(2)]
    loss = AdversarialLoss(kind, scales="sum")(scales, is_real=is_real)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[f"out/{case}"].item(), atol=1e-6, rtol=1e-6)
    for i, layers in enumerate(scales):
        np.testing.assert_allclose(layers[-1].grad.numpy(), golden[f"grad/{case}/p{i}_4"], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("is_real", [True, False])
def test_vanilla_is_the_nonsaturating_loss_of_cut(shared_dir, is_real):
    golden = np.load(shared_dir / "golden" / "loss_cut_gan.npz")
    case = f"gan_nonsaturating_{'real' if is_real else 'fake'}"
    logits = torch.from_numpy(golden[f"in/{case}/pred"]).requires_grad_()
    loss = AdversarialLoss("vanilla")(logits, is_real=is_real)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden[f"out/{case}"].item(), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(logits.grad.numpy(), golden[f"grad/{case}/pred"], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ADVERSARIAL_KINDS)
@pytest.mark.parametrize("for_discriminator", [True, False])
def test_a_step_down_the_gradient_makes_the_logits_say_what_they_should(kind, for_discriminator):
    for is_real in (True, False) if for_discriminator else (True,):
        logits = torch.full((2, 1, 3, 3), 0.3, requires_grad=True)
        AdversarialLoss(kind)(logits, is_real=is_real, for_discriminator=for_discriminator).backward()
        assert (logits.grad < 0).all() == is_real
        assert (logits.grad > 0).all() == (not is_real)


def test_scales_are_averaged_or_summed_and_features_ignored():
    a, b = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 3, 3)
    predictions = [[torch.randn(2, 8, 9, 9), a], [torch.randn(2, 8, 5, 5), b]]
    expected = [functional.mse_loss(x, torch.ones_like(x)).item() for x in (a, b)]
    assert AdversarialLoss("lsgan")(predictions, is_real=True).item() == pytest.approx(sum(expected) / 2)
    assert AdversarialLoss("lsgan", scales="sum")(predictions, is_real=True).item() == pytest.approx(sum(expected))


def test_the_loss_is_float32_for_half_precision_logits():
    logits = torch.full((1, 1, 2, 2), -200.0, dtype=torch.float16, requires_grad=True)
    loss = AdversarialLoss("lsgan")(logits, is_real=True)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(201.0**2)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match=r"'bce'.*vanilla, lsgan, hinge, wgan"):
        AdversarialLoss("bce")
    with pytest.raises(ConfigError, match="median"):
        AdversarialLoss(scales="median")
    with pytest.raises(ConfigError, match="is_real=True"):
        AdversarialLoss()(torch.zeros(1, 1, 2, 2), is_real=False, for_discriminator=False)

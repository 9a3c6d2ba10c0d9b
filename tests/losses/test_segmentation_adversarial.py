"""The losses of the segmenting discriminator of OASIS."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from monai_synth.errors import GeometryError
from monai_synth.losses import SegmentationAdversarialLoss, labelmix_consistency

CASES = [f"{care}_{balance}_{kind}" for care in ("dontcare", "all") for balance in ("bal", "nobal")
         for kind in ("real", "fake")]  # fmt: skip


@pytest.fixture
def golden(shared_dir):
    return np.load(shared_dir / "golden" / "loss_oasis.npz")


def some_batch(*size: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = functional.one_hot(torch.randint(classes, (2, *size), generator=generator), classes).movedim(-1, 1)
    return torch.randn(2, classes + 1, *size, generator=generator), labels.float()


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_loss_and_gradient(golden, case):
    name = f"n1ce_{case}"
    care, balance, kind = case.split("_")
    options = json.loads(str(golden["config"]))["cases"][name]
    assert options["contain_dontcare_label"] == (care == "dontcare")
    assert options["no_balancing_inloss"] == (balance == "nobal")
    # Without balance the published code forgets the don't-care class.
    dont_care = 0 if care == "dontcare" and balance == "bal" else None
    logits = torch.from_numpy(golden[f"in/{name}/input"]).requires_grad_()
    labels = torch.from_numpy(golden[f"in/{name}/const_label"])
    loss = SegmentationAdversarialLoss(dont_care=dont_care, balance=balance == "bal")
    value = loss([[logits.detach(), logits]], labels, is_real=kind == "real")
    value.backward()
    assert value.item() == pytest.approx(golden[f"out/{name}"].item(), abs=1e-6)
    np.testing.assert_allclose(logits.grad, golden[f"grad/{name}/input"], atol=1e-8, rtol=1e-4)


def test_consistency_of_the_mixture_equals_the_published_loss(golden):
    case = "labelmix_consistency"
    logits = {
        name: torch.from_numpy(golden[f"in/{case}/{name}"]).requires_grad_() for name in ("real", "fake", "mixed")
    }
    loss = 10 * labelmix_consistency(**logits, mask=torch.from_numpy(golden[f"in/{case}/const_mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"out/{case}"].item(), rel=1e-6)
    for name, tensor in logits.items():
        np.testing.assert_allclose(tensor.grad, golden[f"grad/{case}/{name}"], atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("size", [(9, 7), (5, 4, 3)])
def test_without_balance_each_voxel_that_counts_has_the_same_share(size):
    logits, labels = some_batch(*size)
    counts = labels[:, 2] == 0
    expected = functional.cross_entropy(logits, labels.argmax(1) + 1, reduction="none")[counts].mean()
    value = SegmentationAdversarialLoss(dont_care=2, balance=False)(logits, labels, is_real=True)
    torch.testing.assert_close(value, expected)
    labels[:, 2] = 0  # zero in all channels: no class either
    value = SegmentationAdversarialLoss(balance=False)(logits, labels, is_real=True)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("balance", [True, False])
def test_one_class_alone_is_a_plain_mean(balance):
    logits, labels = some_batch(6, 6)
    labels[:] = 0
    labels[:, 3] = 1
    value = SegmentationAdversarialLoss(balance=balance, dont_care=0)(logits, labels, is_real=True)
    torch.testing.assert_close(value, functional.cross_entropy(logits, torch.full((2, 6, 6), 4)))


@pytest.mark.parametrize("balance", [True, False])
def test_nothing_but_dont_care_teaches_nothing(balance):
    logits, labels = some_batch(6, 6)
    labels[:] = 0
    labels[:, 0] = 1
    logits.requires_grad_()
    value = SegmentationAdversarialLoss(balance=balance, dont_care=0)(logits, labels, is_real=True)
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_losses_are_float32_in_reduced_precision():
    logits, labels = some_batch(9, 7)
    loss = SegmentationAdversarialLoss()
    mask = labels[:, :1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for is_real in (True, False):
            value = loss(logits.bfloat16(), labels, is_real=is_real)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, loss(logits.bfloat16().float(), labels, is_real=is_real))
        consistency = labelmix_consistency(logits.bfloat16(), logits.flip(0).bfloat16(), logits.bfloat16(), mask)
    assert consistency.dtype == torch.float32


def test_logits_that_do_not_fit_are_refused():
    logits, labels = some_batch(6, 6)
    with pytest.raises(GeometryError, match=r"\[2, 5, 6, 6\].*\[2, 3, 6, 6\].*one channel more"):
        SegmentationAdversarialLoss()(logits, labels[:, :3], is_real=True)
    with pytest.raises(GeometryError, match=r"\[2, 4, 6, 5\]"):
        SegmentationAdversarialLoss()(logits, labels[..., :5], is_real=False)

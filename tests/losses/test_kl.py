import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from monai_synth.losses import kl_to_standard_normal


def test_equals_the_official_loss_and_gradient(shared_dir):
    golden = np.load(shared_dir / "golden" / "loss_spade.npz")
    mu, logvar = (torch.from_numpy(golden[f"in/kld/{name}"]).requires_grad_() for name in ("mu", "logvar"))
    loss = kl_to_standard_normal(mu, logvar)
    loss.backward()
    assert loss.item() == pytest.approx(golden["out/kld"].item(), rel=1e-6)
    np.testing.assert_allclose(mu.grad.numpy(), golden["grad/kld/mu"], rtol=1e-6)
    np.testing.assert_allclose(logvar.grad.numpy(), golden["grad/kld/logvar"], rtol=1e-5, atol=1e-7)


def test_is_the_divergence_that_torch_knows_summed_over_the_batch():
    mu, logvar = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).unbind()
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum()
    assert kl_to_standard_normal(mu, logvar).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_to_standard_normal(mu, logvar, average=True).item() == pytest.approx(expected.item() / 3, rel=1e-5)


def test_is_zero_for_the_standard_normal_and_float32_for_half_precision():
    zeros = torch.zeros(2, 4, dtype=torch.bfloat16)
    loss = kl_to_standard_normal(zeros, zeros)
    assert loss.dtype == torch.float32
    assert loss.item() == 0

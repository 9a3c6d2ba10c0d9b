import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import PatchNCELoss

CASES = {"nce_image": "image", "nce_minibatch": "batch"}


def unit_vectors(*shape, seed=0):
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def read_case(shared_dir, case):
    golden = np.load(shared_dir / "golden" / "loss_patchnce.npz")
    config = json.loads(str(golden["config"]))["cases"][case]
    queries = torch.from_numpy(golden[f"in/{case}/q"]).requires_grad_()
    return golden, config, queries, torch.from_numpy(golden[f"in/{case}/const_k"])


@pytest.mark.parametrize(("case", "negatives"), CASES.items())
def test_equals_the_official_loss_and_gradient(shared_dir, case, negatives):
    golden, config, queries, keys = read_case(shared_dir, case)
    assert config["nce_includes_all_negatives_from_minibatch"] == (negatives == "batch")
    loss = PatchNCELoss(temperature=config["nce_T"], negatives=negatives, reduction="none")
    values = loss(queries, keys, num_images=config["batch_size"])
    values.sum().backward()
    np.testing.assert_allclose(values.detach(), golden[f"out/{case}"], atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(queries.grad, golden[f"grad/{case}/q"], atol=1e-4, rtol=1e-5)
    mean = PatchNCELoss(temperature=config["nce_T"], negatives=negatives)(queries, keys, num_images=2)
    assert mean.item() == pytest.approx(golden[f"out/{case}"].mean(), rel=1e-6)


@pytest.mark.parametrize(("case", "negatives"), CASES.items())
def test_other_negatives_are_not_the_official_loss(shared_dir, case, negatives):
    golden, config, queries, keys = read_case(shared_dir, case)
    other = {"image": "batch", "batch": "image"}[negatives]
    values = PatchNCELoss(negatives=other, reduction="none")(queries, keys, num_images=config["batch_size"])
    assert np.abs(values.detach().numpy() - golden[f"out/{case}"]).max() > 0.1


def test_far_below_minus_ten_the_fill_counts_as_published():
    # One place per image: the only other logit is the fill of -10.
    queries, keys = torch.tensor([[3.0, 0.0]]), torch.tensor([[-5.0, 0.0]])
    found = PatchNCELoss(temperature=1.0)(queries, keys).item()
    assert found == pytest.approx(math.log(math.exp(-15) + math.exp(-10)) + 15, rel=1e-5)


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_at_unit_vectors_it_is_the_textbook_formula(negatives):
    queries, keys = unit_vectors(3 * 8, 5), unit_vectors(3 * 8, 5, seed=1)
    groups = 3 if negatives == "image" else 1
    expected = torch.stack(
        [
            functional.cross_entropy(q @ k.T / 0.07, torch.arange(len(q)))
            for q, k in zip(queries.chunk(groups), keys.chunk(groups), strict=True)
        ]
    ).mean()
    found = PatchNCELoss(negatives=negatives)(queries, keys, num_images=3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_images_do_not_mix_with_their_own_negatives():
    queries, keys = unit_vectors(2 * 8, 5), unit_vectors(2 * 8, 5, seed=1)
    loss = PatchNCELoss(reduction="none")
    together = loss(queries, keys, num_images=2)
    apart = torch.cat([loss(queries[i : i + 8], keys[i : i + 8]) for i in (0, 8)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)


def test_keys_get_no_gradient():
    queries, keys = unit_vectors(8, 5).requires_grad_(), unit_vectors(8, 5, seed=1).requires_grad_()
    PatchNCELoss()(queries, keys).backward()
    assert keys.grad is None
    assert queries.grad.any()


def test_a_step_down_the_gradient_brings_places_together():
    queries, keys = unit_vectors(16, 6).requires_grad_(), unit_vectors(16, 6, seed=1)
    loss = PatchNCELoss()
    before = loss(queries, keys)
    before.backward()
    after = loss(functional.normalize(queries.detach() - 0.05 * queries.grad, dim=1), keys)
    assert after < before
    assert loss(keys, keys) < before


def test_the_loss_is_float32_under_autocast():
    queries, keys = unit_vectors(16, 6), unit_vectors(16, 6, seed=1)
    expected = PatchNCELoss()(queries, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = PatchNCELoss()(queries, keys)
        rounded = PatchNCELoss()(queries.bfloat16().requires_grad_(), keys.bfloat16())
    assert found.dtype == rounded.dtype == torch.float32
    assert torch.equal(found, expected)
    rounded.backward()
    assert rounded.isfinite()


def test_what_does_not_fit_is_refused():
    loss = PatchNCELoss()
    with pytest.raises(GeometryError, match=r"\[6, 4\] and keys \[6, 3\]"):
        loss(torch.zeros(6, 4), torch.zeros(6, 3))
    with pytest.raises(GeometryError, match=r"of 4 image"):
        loss(torch.zeros(6, 4), torch.zeros(6, 4), num_images=4)
    with pytest.raises(ConfigError, match="temperature=0"):
        PatchNCELoss(temperature=0)
    with pytest.raises(ConfigError, match=r"'all'.*image, batch"):
        PatchNCELoss(negatives="all")
    with pytest.raises(ConfigError, match=r"'sum'.*mean, none"):
        PatchNCELoss(reduction="sum")

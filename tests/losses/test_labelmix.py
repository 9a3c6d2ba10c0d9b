"""LabelMix and class balance of OASIS."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses.labelmix import class_balance_weights, draw_labelmix_mask, mix


def one_hot(classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    return (classes == torch.arange(num_classes).reshape(1, -1, *[1] * (classes.ndim - 2))).float()


def some_labels(*shape: int, classes: tuple[int, ...] = (0, 1, 2, 5)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.tensor(classes)[torch.randint(len(classes), (shape[0], 1, *shape[1:]), generator=generator)]


@pytest.fixture
def golden(shared_dir):
    return np.load(shared_dir / "golden" / "oasis_labelmix.npz")


@pytest.mark.parametrize("is_one_hot", [True, False])
def test_equals_the_published_masks_and_the_intended_ones(golden, is_one_hot):
    labels = torch.from_numpy(golden["in/label"])
    labels = one_hot(labels, 6) if is_one_hot else labels
    differing = 0
    for case in range(4):
        draws = torch.from_numpy(golden[f"in/draws_{case}"])
        official = draw_labelmix_mask(labels, draws=draws, official_quirk=True)
        intended = draw_labelmix_mask(labels, draws=draws)
        np.testing.assert_array_equal(official, golden[f"out/mask_{case}"])
        np.testing.assert_array_equal(intended, golden[f"out/mask_intended_{case}"])
        differing += not torch.equal(official, intended)
    assert differing > 0


def test_equals_the_published_mixture_and_weights(golden):
    labels = torch.from_numpy(golden["in/label"])
    real, fake = torch.from_numpy(golden["in/real"]), torch.from_numpy(golden["in/fake"])
    mask = draw_labelmix_mask(labels, draws=torch.from_numpy(golden["in/draws_0"]), official_quirk=True)
    np.testing.assert_array_equal(mix(real, fake, mask), golden["out/mixed_0"])
    for given in (labels, one_hot(labels, 6)):
        weights = class_balance_weights(given, dont_care=0)
        np.testing.assert_allclose(weights, golden["out/weight_map"], rtol=2e-7)
    np.testing.assert_array_equal(labels[:, 0] + 1, golden["out/target_real"])


@pytest.mark.parametrize(("case", "dont_care"), [("n1ce_dontcare_bal_real", 0), ("n1ce_all_bal_real", None)])
def test_weighted_cross_entropy_equals_the_published_loss(shared_dir, case, dont_care):
    golden = np.load(shared_dir / "golden" / "loss_oasis.npz")
    logits = torch.from_numpy(golden[f"in/{case}/input"]).requires_grad_()
    label = torch.from_numpy(golden[f"in/{case}/const_label"])
    weights = class_balance_weights(label, dont_care=dont_care)
    loss = (functional.cross_entropy(logits, label.argmax(1) + 1, reduction="none") * weights[:, 0]).mean()
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"out/{case}"].item(), abs=1e-6)
    np.testing.assert_allclose(logits.grad, golden[f"grad/{case}/input"], atol=1e-8, rtol=1e-4)


def test_consistency_of_the_mixture_equals_the_published_loss(shared_dir):
    golden = np.load(shared_dir / "golden" / "loss_oasis.npz")
    case = "labelmix_consistency"
    logits = {
        name: torch.from_numpy(golden[f"in/{case}/{name}"]).requires_grad_() for name in ("real", "fake", "mixed")
    }
    mask = torch.from_numpy(golden[f"in/{case}/const_mask"])
    loss = 10 * functional.mse_loss(mix(logits["real"], logits["fake"], mask), logits["mixed"])
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"out/{case}"].item(), rel=1e-6)
    for name, tensor in logits.items():
        np.testing.assert_allclose(tensor.grad, golden[f"grad/{case}/{name}"], atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 9, 7), (2, 5, 4, 3)])
def test_all_voxels_of_a_class_share_one_toss(shape):
    labels = some_labels(*shape)
    seen = set()
    for seed in range(40):
        mask = draw_labelmix_mask(labels, generator=torch.Generator().manual_seed(seed))
        assert mask.shape == labels.shape
        assert mask.dtype == torch.float32
        tosses = [mask[labels == c].unique().tolist() for c in (0, 1, 2, 5)]
        assert all(toss in ([0.0], [1.0]) for toss in tosses)
        seen.add(tuple(toss[0] for toss in tosses))
    assert len(seen) > 10, "the tosses are independent"


def test_the_same_generator_gives_the_same_mask():
    labels = some_labels(2, 9, 7)
    masks = [draw_labelmix_mask(labels, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*masks)
    torch.manual_seed(7)
    first = draw_labelmix_mask(labels)
    torch.manual_seed(7)
    assert torch.equal(first, draw_labelmix_mask(one_hot(labels, 6)))


@pytest.mark.parametrize("classes", [(0, 1), (0, 2), (1, 2), (2, 5), (0,), (0, 1, 3)])
def test_the_quirk_is_the_published_loop(classes):
    labels = some_labels(2, 8, 8, classes=classes)
    assert labels.unique().tolist() == list(classes)
    for code in range(2 ** len(classes)):
        draws = torch.tensor([code >> k & 1 for k in range(len(classes))])
        expected = labels.clone()
        for label, draw in zip(classes, draws, strict=True):
            expected[expected == label] = draw
        assert torch.equal(draw_labelmix_mask(labels, draws=draws, official_quirk=True), expected.float())


def test_voxels_without_a_class_have_a_toss_of_their_own_and_no_weight():
    labels = some_labels(2, 6, 6, classes=(0, 1))
    encoded = one_hot(labels, 2)
    encoded[:, :, :2] = 0
    mask = draw_labelmix_mask(encoded, draws=torch.tensor([1, 0, 0]))
    assert mask[:, :, :2].eq(1).all()
    assert mask[:, :, 2:].eq(0).all()
    weights = class_balance_weights(encoded)
    assert weights[:, :, :2].eq(0).all()
    assert weights[:, :, 2:].gt(0).all()


def test_mixture_takes_one_or_the_other_and_ignores_nan_of_the_rest():
    real, fake = torch.ones(2, 3, 4, 5, 2), torch.full((2, 3, 4, 5, 2), float("nan"))
    mask = torch.ones(2, 1, 4, 5, 2)
    assert mix(real, fake, mask).eq(1).all()
    mask[:, :, 0] = 0
    assert mix(real, fake, mask)[:, :, 0].isnan().all()
    assert mix(real.half(), fake, mask).dtype == torch.float32


@pytest.mark.parametrize("dont_care", [None, 0, 2, 9])
@pytest.mark.parametrize("shape", [(3, 9, 7), (2, 5, 4, 3)])
def test_weighted_mean_is_the_mean_over_classes(shape, dont_care):
    labels = some_labels(*shape)
    loss = torch.rand(labels.shape)
    classes = [c for c in (0, 1, 2, 5) if c != dont_care]
    expected = torch.stack([loss[labels == c].mean() for c in classes]).mean()
    weighted = (loss * class_balance_weights(labels, dont_care=dont_care)).mean()
    assert weighted.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_of_dont_care_only_has_no_weight():
    assert class_balance_weights(torch.zeros(1, 1, 4, 4), dont_care=0).eq(0).all()


def test_bad_input_is_refused():
    labels = some_labels(2, 6, 6)
    for draws in ([1, 0], [1, 0, 2, 0], [0.5, 0, 0, 1]):
        with pytest.raises(ConfigError, match=r"for the classes \[0, 1, 2, 5\]; give one 0 or 1"):
            draw_labelmix_mask(labels, draws=torch.tensor(draws))
    with pytest.raises(GeometryError, match="the mask the same with one channel"):
        mix(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 4))
    with pytest.raises(GeometryError, match=r"\[2, 3, 4, 4\]"):
        mix(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    with pytest.raises(GeometryError, match=r"Labels of shape \[4, 4\]"):
        class_balance_weights(torch.zeros(4, 4))

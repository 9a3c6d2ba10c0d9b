import numpy as np
import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import FeatureMatchingLoss


def scales(golden, kind, num_layers):
    return [
        [torch.from_numpy(golden[f"in/feat/{kind}{scale}_{layer}"]) for layer in range(num_layers)] for scale in (0, 1)
    ]


@pytest.mark.parametrize(("file", "weighting", "num_layers"), [("p2phd", "pix2pixhd", 5), ("spade", "spade", 4)])
def test_equals_the_official_loss_and_gradient(shared_dir, file, weighting, num_layers):
    golden = np.load(shared_dir / "golden" / f"loss_{file}.npz")
    fake = [[layer.requires_grad_() for layer in layers] for layers in scales(golden, "f", num_layers)]
    real = [[layer.requires_grad_() for layer in layers] for layers in scales(golden, "const_r", num_layers)]
    loss = 10 * FeatureMatchingLoss(weighting)(fake, real)
    loss.backward()
    assert loss.item() == pytest.approx(golden["out/feat"].item(), rel=1e-6)
    for scale, layers in enumerate(fake):
        assert layers[-1].grad is None  # the logits are no features
        for index, layer in enumerate(layers[:-1]):
            np.testing.assert_allclose(layer.grad.numpy(), golden[f"grad/feat/f{scale}_{index}"], atol=1e-8, rtol=1e-5)
    assert all(layer.grad is None for layers in real for layer in layers)


def test_the_two_weightings_differ_by_four_over_the_number_of_feature_maps():
    torch.manual_seed(0)
    for num_features in (2, 4, 5):
        fake, real = ([[torch.randn(2, 3, 5, 5) for _ in range(num_features + 1)]] * 3 for _ in range(2))
        hd, spade = (FeatureMatchingLoss(weighting)(fake, real).item() for weighting in ("pix2pixhd", "spade"))
        assert hd == pytest.approx(spade * 4 / num_features, rel=1e-5)


def test_computes_in_float32_whatever_the_features_are():
    fake, real = ([[torch.full((1, 1, 64, 64), v, dtype=torch.bfloat16), torch.zeros(1)]] for v in (1.0, 1.0078125))
    loss = FeatureMatchingLoss("spade")(fake, real)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.0078125)


def test_what_cannot_be_compared_is_refused():
    features, logits = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ConfigError, match="only logits"):
        FeatureMatchingLoss()([[logits]], [[logits]])
    with pytest.raises(GeometryError, match=r"\[2, 3, 4, 4\].*\[1, 3, 4, 4\]"):
        FeatureMatchingLoss()([[features, logits]], [[features[:1], logits]])
    with pytest.raises(GeometryError, match="same scales"):
        FeatureMatchingLoss()([[features, logits]], [[features, logits]] * 2)
    with pytest.raises(ConfigError, match=r"'mean'.*pix2pixhd, spade"):
        FeatureMatchingLoss("mean")

"""Feature matching: a synthetic image should look to the discriminator as the real one does, layer by layer.

Sources: pix2pixHD (Wang et al. 2018) and, with another weight, SPADE (Park et al. 2019). MONAI has none for the lists
that multi-scale discriminators return.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["FEATURE_WEIGHTINGS", "FeatureMatchingLoss"]

FEATURE_WEIGHTINGS = ("pix2pixhd", "spade")
_PUBLISHED_LAYERS = 4  # features of a scale at n_layers_D = 3, where the weight of a layer is 1


class FeatureMatchingLoss(nn.Module):
    """Mean absolute difference of the feature maps of a discriminator, over all scales and layers but the logits.

    Args:
        weighting: of each layer's mean. ``"pix2pixhd"``: ``4 / (n_layers_D + 1) / num_scales``, so that deeper
            discriminators do not weigh more (a scale has ``n_layers_D + 1`` feature maps); ``"spade"``:
            ``1 / num_scales``. Both are the same with four feature maps.

    Raises:
        ConfigError: for an unknown weighting.
    """

    def __init__(self, weighting: str = "pix2pixhd"):
        super().__init__()
        if weighting not in FEATURE_WEIGHTINGS:
            raise ConfigError(f"weighting={weighting!r} is not known; choose one of {', '.join(FEATURE_WEIGHTINGS)}.")
        self.weighting = weighting

    def forward(self, fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
        """Compare what a discriminator returns for synthetic and real images of the same conditions.

        Args:
            fake: scales x layers, logits last.
            real: as ``fake``; no gradient flows into it.

        Returns:
            Scalar, in float32 also under autocast, not yet multiplied by a lambda (published: 10).

        Raises:
            ConfigError: if the discriminator returns logits alone.
            GeometryError: if the two do not have the same scales, layers and shapes.
        """
        shapes_fake, shapes_real = _shapes(fake), _shapes(real)
        if shapes_fake != shapes_real:
            raise GeometryError(
                f"The discriminator returned {shapes_fake} for the synthetic and {shapes_real} for the real images; "
                "feature matching needs the same scales, layers and shapes. Give both the same conditions."
            )
        if any(len(layers) < 2 for layers in fake):
            raise ConfigError(
                "The discriminator returns no features, only logits; feature matching compares the layers in front of "
                "them. Use one that returns them all, or lambda_feature=0."
            )
        terms = [
            self._weight(len(layers) - 1) / len(fake) * functional.l1_loss(ours.float(), theirs.detach().float())
            for layers, real_layers in zip(fake, real, strict=True)
            for ours, theirs in zip(layers[:-1], real_layers[:-1], strict=True)
        ]
        return torch.stack(terms).sum()

    def _weight(self, num_features: int) -> float:
        return _PUBLISHED_LAYERS / num_features if self.weighting == "pix2pixhd" else 1.0


def _shapes(scales: list[list[Tensor]]) -> list[list[list[int]]]:
    return [[list(layer.shape) for layer in layers] for layers in scales]

"""Total variation (Rudin, Osher & Fatemi 1992): the differences of neighbouring voxels, as a price for noise.

The name stands for several formulas, whose values differ by factors of thousands; a lambda from a paper fits one.
"""

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["TOTAL_VARIATIONS", "TotalVariationLoss"]

TOTAL_VARIATIONS = ("l1", "l2", "jxgu", "kornia")


class TotalVariationLoss(nn.Module):
    """Total variation of images, in one of the field's definitions.

    With ``d`` the difference of neighbours along an axis:

    ========  =======================================================  ==========================================
    name      formula                                                  where it is found
    ========  =======================================================  ==========================================
    l1        sum over axes of mean ``|d|``                            most papers; anisotropic, keeps edges
    l2        sum over axes of mean ``d^2``                            smoother, blurs edges
    jxgu      2 x ``l2``                                               the PyTorch code of J. Gu, often copied
    kornia    sum of ``|d|`` over axes, voxels, channels and images    kornia's ``total_variation``, summed
    ========  =======================================================  ==========================================

    Args:
        definition: ``"l1"``, ``"l2"``, ``"jxgu"`` or ``"kornia"``. Only the last depends on size and batch.

    Raises:
        ConfigError: for an unknown definition.
    """

    def __init__(self, definition: str = "l1"):
        super().__init__()
        if definition not in TOTAL_VARIATIONS:
            raise ConfigError(f"definition={definition!r} is not known; choose one of {', '.join(TOTAL_VARIATIONS)}.")
        self.definition = definition

    def forward(self, image: Tensor) -> Tensor:
        """Total variation of a batch.

        Args:
            image: ``(B, C, *spatial)``, two or three spatial dimensions. An axis of length 1 has no differences.

        Returns:
            Scalar, in float32 also under autocast.

        Raises:
            GeometryError: if the image has no spatial axes.
        """
        if image.ndim < 3:
            raise GeometryError(f"Total variation of shape {list(image.shape)}: give images (B, C, *spatial).")
        image = image.float()
        axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
        terms = [self._along(torch.diff(image, dim=axis)) for axis in axes]
        return torch.stack(terms).sum() if terms else 0 * image.sum()

    def _along(self, differences: Tensor) -> Tensor:
        if self.definition == "l1":
            return differences.abs().mean()
        if self.definition == "kornia":
            return differences.abs().sum()
        return (2 if self.definition == "jxgu" else 1) * differences.square().mean()

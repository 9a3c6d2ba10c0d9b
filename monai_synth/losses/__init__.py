"""Losses: tensors in, scalar out."""

from monai_synth.losses import adversarial, labelmix, perceptual
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.labelmix import class_balance_weights, draw_labelmix_mask
from monai_synth.losses.perceptual import PerceptualLoss

__all__ = [
    "AdversarialLoss",
    "PerceptualLoss",
    "adversarial",
    "class_balance_weights",
    "draw_labelmix_mask",
    "labelmix",
    "perceptual",
]

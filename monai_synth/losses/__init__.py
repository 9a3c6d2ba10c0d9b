"""Losses: tensors in, scalar out."""

from monai_synth.losses import adversarial, perceptual
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.perceptual import PerceptualLoss

__all__ = ["AdversarialLoss", "PerceptualLoss", "adversarial", "perceptual"]

"""Losses: tensors in, scalar out."""

from monai_synth.losses import adversarial, body_consistency, labelmix, perceptual, segmentation_adversarial
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.body_consistency import BodyConsistencyLoss
from monai_synth.losses.feature_matching import FeatureMatchingLoss
from monai_synth.losses.gradient_penalty import gradient_penalty, r1_penalty
from monai_synth.losses.kl import kl_to_standard_normal
from monai_synth.losses.labelmix import class_balance_weights, draw_labelmix_mask
from monai_synth.losses.patch_nce import PatchNCELoss
from monai_synth.losses.perceptual import PerceptualLoss
from monai_synth.losses.segmentation_adversarial import SegmentationAdversarialLoss, labelmix_consistency
from monai_synth.losses.total_variation import TotalVariationLoss
from monai_synth.losses.vgg_perceptual import VGGPerceptualLoss

__all__ = [
    "AdversarialLoss",
    "BodyConsistencyLoss",
    "FeatureMatchingLoss",
    "PatchNCELoss",
    "PerceptualLoss",
    "SegmentationAdversarialLoss",
    "TotalVariationLoss",
    "VGGPerceptualLoss",
    "adversarial",
    "body_consistency",
    "class_balance_weights",
    "draw_labelmix_mask",
    "gradient_penalty",
    "kl_to_standard_normal",
    "labelmix",
    "labelmix_consistency",
    "perceptual",
    "r1_penalty",
    "segmentation_adversarial",
]

"""Scores of synthetic images in physical units: per case, per tissue, by the rules of SynthRAD, and of a whole set."""

from monai_synth.metrics import case_scores, distribution, image, image_scores, synthrad, tissue
from monai_synth.metrics.case_scores import CaseScores
from monai_synth.metrics.distribution import TextureDistance, kernel_distance, texture_features
from monai_synth.metrics.image import masked_mae, masked_me, masked_psnr, masked_rmse
from monai_synth.metrics.image_scores import ImageScores, score_image
from monai_synth.metrics.slice_texture import SliceTextureDistance
from monai_synth.metrics.synthrad import PRESETS, SynthradPreset, explain_missing, score_case
from monai_synth.metrics.tissue import BINS_HU, tissue_mae

__all__ = [
    "BINS_HU",
    "PRESETS",
    "CaseScores",
    "ImageScores",
    "SliceTextureDistance",
    "SynthradPreset",
    "TextureDistance",
    "case_scores",
    "distribution",
    "explain_missing",
    "image",
    "image_scores",
    "kernel_distance",
    "masked_mae",
    "masked_me",
    "masked_psnr",
    "masked_rmse",
    "score_case",
    "score_image",
    "synthrad",
    "texture_features",
    "tissue",
    "tissue_mae",
]

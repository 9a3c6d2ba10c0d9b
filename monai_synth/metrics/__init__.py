"""Scores of synthetic images in physical units: per case, per tissue and by the rules of SynthRAD."""

from monai_synth.metrics import case_scores, image, synthrad, tissue
from monai_synth.metrics.case_scores import CaseScores
from monai_synth.metrics.image import masked_mae, masked_me, masked_psnr, masked_rmse
from monai_synth.metrics.synthrad import PRESETS, SynthradPreset, explain_missing, score_case
from monai_synth.metrics.tissue import BINS_HU, tissue_mae

__all__ = [
    "BINS_HU",
    "PRESETS",
    "CaseScores",
    "SynthradPreset",
    "case_scores",
    "explain_missing",
    "image",
    "masked_mae",
    "masked_me",
    "masked_psnr",
    "masked_rmse",
    "score_case",
    "synthrad",
    "tissue",
    "tissue_mae",
]

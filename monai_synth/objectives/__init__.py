"""Training objectives: the mathematics of one method each."""

from monai_synth.objectives import base, pix2pix
from monai_synth.objectives.base import Objective
from monai_synth.objectives.pix2pix import Pix2Pix

__all__ = ["Objective", "Pix2Pix", "base", "pix2pix"]

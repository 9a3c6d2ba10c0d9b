"""Training objectives: the mathematics of one method each."""

from monai_synth.objectives import base, image_pool, pix2pix
from monai_synth.objectives.base import Objective
from monai_synth.objectives.image_pool import ImagePool
from monai_synth.objectives.pix2pix import Pix2Pix

__all__ = ["ImagePool", "Objective", "Pix2Pix", "base", "image_pool", "pix2pix"]

"""Training objectives: the mathematics of one method each."""

from monai_synth.objectives import base, image_pool, label_maps, oasis, pix2pix, usis
from monai_synth.objectives.base import Objective
from monai_synth.objectives.cut import Cut
from monai_synth.objectives.cyclegan import CycleGan
from monai_synth.objectives.image_pool import ImagePool
from monai_synth.objectives.label_maps import RegionNoise
from monai_synth.objectives.oasis import Oasis
from monai_synth.objectives.pix2pix import Pix2Pix
from monai_synth.objectives.pix2pixhd import Pix2PixHD
from monai_synth.objectives.spade import Spade
from monai_synth.objectives.usis import Usis

__all__ = [
    "Cut",
    "CycleGan",
    "ImagePool",
    "Oasis",
    "Objective",
    "Pix2Pix",
    "Pix2PixHD",
    "RegionNoise",
    "Spade",
    "Usis",
    "base",
    "image_pool",
    "label_maps",
    "oasis",
    "pix2pix",
    "usis",
]

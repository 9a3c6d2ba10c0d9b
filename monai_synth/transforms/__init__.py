"""Dictionary transforms that MONAI lacks: body outline, intensities that can be mapped back, output names."""

from monai_synth.transforms.body_mask import BodyMaskd, MaskBackgroundd, body_mask
from monai_synth.transforms.intensity import ToNetworkRanged, ToPhysicald
from monai_synth.transforms.output import NameByCased, RoundToIntegerd, VolumeWriter

__all__ = [
    "BodyMaskd",
    "MaskBackgroundd",
    "NameByCased",
    "RoundToIntegerd",
    "ToNetworkRanged",
    "ToPhysicald",
    "VolumeWriter",
    "body_mask",
]

"""Dictionary transforms that MONAI lacks: body outline, intensities that can be mapped back, labels, output names."""

from monai_synth.transforms.body_mask import BodyMaskd, MaskBackgroundd, body_mask
from monai_synth.transforms.instance_edges import InstanceEdgesd, instance_edges
from monai_synth.transforms.intensity import ToNetworkRanged, ToPhysicald
from monai_synth.transforms.one_hot import CheckLabelsd, LabelsFromOneHotd, OneHotd
from monai_synth.transforms.output import NameByCased, RoundToIntegerd, VolumeWriter

__all__ = [
    "BodyMaskd",
    "CheckLabelsd",
    "InstanceEdgesd",
    "LabelsFromOneHotd",
    "MaskBackgroundd",
    "NameByCased",
    "OneHotd",
    "RoundToIntegerd",
    "ToNetworkRanged",
    "ToPhysicald",
    "VolumeWriter",
    "body_mask",
    "instance_edges",
]

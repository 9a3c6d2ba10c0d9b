"""Dictionary transforms that MONAI lacks: body outline, intensities that can be mapped back, labels, output names."""

from monai_synth.transforms.body_label import BodyLabeld, RequireLabeld
from monai_synth.transforms.body_mask import BodyMaskd, MaskBackgroundd, body_mask
from monai_synth.transforms.instance_classes import InstancesToClassesd, instance_classes
from monai_synth.transforms.instance_edges import InstanceEdgesd, instance_edges
from monai_synth.transforms.intensity import ToNetworkRanged, ToPhysicald
from monai_synth.transforms.invert import InvertSmoothlyd
from monai_synth.transforms.merge_labels import MergeLabelsd
from monai_synth.transforms.one_hot import CheckLabelsd, LabelsFromOneHotd, OneHotd
from monai_synth.transforms.output import NameByCased, RoundToIntegerd, ToGreyLevelsd, VolumeWriter

__all__ = [
    "BodyLabeld",
    "BodyMaskd",
    "CheckLabelsd",
    "InstanceEdgesd",
    "InstancesToClassesd",
    "InvertSmoothlyd",
    "LabelsFromOneHotd",
    "MaskBackgroundd",
    "MergeLabelsd",
    "NameByCased",
    "OneHotd",
    "RequireLabeld",
    "RoundToIntegerd",
    "ToGreyLevelsd",
    "ToNetworkRanged",
    "ToPhysicald",
    "VolumeWriter",
    "body_mask",
    "instance_classes",
    "instance_edges",
]

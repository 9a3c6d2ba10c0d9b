"""Cohorts, splits, intensity contracts, label tables and slices."""

from monai_synth.data.cases import CaseDataset
from monai_synth.data.inputs import find_images
from monai_synth.data.intensity import Intensity, Percentiles, Window, ZScore
from monai_synth.data.labels import LabelTable
from monai_synth.data.manifest import Manifest, read_manifest
from monai_synth.data.manifest_check import check_manifest, require_sound_manifest
from monai_synth.data.picture_reader import PictureReader
from monai_synth.data.slices import SliceDataset
from monai_synth.data.unpaired import UnpairedDataset, separate_patients

__all__ = [
    "CaseDataset",
    "Intensity",
    "LabelTable",
    "Manifest",
    "Percentiles",
    "PictureReader",
    "SliceDataset",
    "UnpairedDataset",
    "Window",
    "ZScore",
    "check_manifest",
    "find_images",
    "read_manifest",
    "require_sound_manifest",
    "separate_patients",
]

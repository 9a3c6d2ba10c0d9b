"""Cohorts, splits, intensity contracts and slices."""

from monai_synth.data.inputs import find_images
from monai_synth.data.intensity import Intensity, Percentiles, Window, ZScore
from monai_synth.data.manifest import Manifest, read_manifest
from monai_synth.data.slices import SliceDataset

__all__ = ["Intensity", "Manifest", "Percentiles", "SliceDataset", "Window", "ZScore", "find_images", "read_manifest"]

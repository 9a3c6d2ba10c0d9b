"""From networks to volumes on the grid of their input, and baselines that need no network."""

from monai_synth.inferers.baselines import Baseline, BodyAsWater, HistogramMatch, MeanTargetByCondition, fit_baselines
from monai_synth.inferers.feature_clusters import FeatureClusters
from monai_synth.inferers.image_baselines import MeanTargetByLabel, fit_image_baselines
from monai_synth.inferers.preparation import PreparedNetwork, prepare_for_inference
from monai_synth.inferers.volume import VolumeInferer

__all__ = [
    "Baseline",
    "BodyAsWater",
    "FeatureClusters",
    "HistogramMatch",
    "MeanTargetByCondition",
    "MeanTargetByLabel",
    "PreparedNetwork",
    "VolumeInferer",
    "fit_baselines",
    "fit_image_baselines",
    "prepare_for_inference",
]

"""From networks to volumes on the grid of their input, and baselines that need no network."""

from monai_synth.inferers.baselines import Baseline, BodyAsWater, HistogramMatch, MeanTargetByCondition, fit_baselines
from monai_synth.inferers.volume import VolumeInferer

__all__ = ["Baseline", "BodyAsWater", "HistogramMatch", "MeanTargetByCondition", "VolumeInferer", "fit_baselines"]

"""Numbers with their uncertainty: bootstrap intervals over patients."""

from monai_synth.statistics import bootstrap
from monai_synth.statistics.bootstrap import (
    MIN_PATIENTS,
    Interval,
    bootstrap_mean,
    format_interval,
    paired_difference,
    summarise,
    unit_of,
    values_by_patient,
)

__all__ = [
    "MIN_PATIENTS",
    "Interval",
    "bootstrap",
    "bootstrap_mean",
    "format_interval",
    "paired_difference",
    "summarise",
    "unit_of",
    "values_by_patient",
]

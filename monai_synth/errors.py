"""Errors that a user of monai_synth can meet.

Every message names the thing, its value, the rule it breaks and the way out.
"""


class SynthError(Exception):
    """Base of all errors raised on purpose by monai_synth."""


class ManifestError(SynthError):
    """A manifest, or a file that it names, breaks the column contract."""


class LeakageError(ManifestError):
    """A patient would be on both sides of a training and its evaluation."""


class GeometryError(SynthError):
    """Two images that should share a voxel grid do not."""


class LabelError(SynthError):
    """A label map holds values that its label table does not name."""


class IntensityError(SynthError):
    """Intensities that cannot be mapped to the range of a network."""


class CheckpointError(SynthError):
    """A checkpoint is damaged, unsafe or belongs to another network."""


class ConfigError(SynthError):
    """A bundle configuration or a combination of options that cannot work."""


class DivergenceError(SynthError):
    """A training that can no longer succeed: a loss or an image is not finite."""

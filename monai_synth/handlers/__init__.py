"""Small Ignite handlers: averaging, resuming, recording and showing a training."""

from monai_synth.handlers.best import BestModel
from monai_synth.handlers.ema import EMA, share_buffers
from monai_synth.handlers.history import History
from monai_synth.handlers.preview import Preview
from monai_synth.handlers.progress import Progress
from monai_synth.handlers.resume import TrainingCheckpoint, is_true
from monai_synth.handlers.run_record import RunRecord, describe_run

__all__ = [
    "EMA",
    "BestModel",
    "History",
    "Preview",
    "Progress",
    "RunRecord",
    "TrainingCheckpoint",
    "describe_run",
    "is_true",
    "share_buffers",
]

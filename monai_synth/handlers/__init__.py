"""Small Ignite handlers: averaging, resuming, recording, watching and showing a training."""

from monai_synth.handlers.balance import BalanceMonitor
from monai_synth.handlers.best import BestModel
from monai_synth.handlers.early_stop import EarlyStop
from monai_synth.handlers.ema import EMA, share_buffers
from monai_synth.handlers.history import History
from monai_synth.handlers.outputs import named_losses
from monai_synth.handlers.preview import Preview
from monai_synth.handlers.progress import Progress
from monai_synth.handlers.resume import TrainingCheckpoint, is_true
from monai_synth.handlers.run_record import RunRecord, describe_run
from monai_synth.handlers.stop_signal import StopSignal
from monai_synth.handlers.tensorboard import open_tensorboard

__all__ = [
    "EMA",
    "BalanceMonitor",
    "BestModel",
    "EarlyStop",
    "History",
    "Preview",
    "Progress",
    "RunRecord",
    "StopSignal",
    "TrainingCheckpoint",
    "describe_run",
    "is_true",
    "named_losses",
    "open_tensorboard",
    "share_buffers",
]

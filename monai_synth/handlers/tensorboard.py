"""TensorBoard, where it is installed and wanted."""

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from monai_synth.errors import ConfigError


def open_tensorboard(directory: str | Path) -> Any:
    """Open a log that MONAI's ``TensorBoardStatsHandler`` and :class:`monai_synth.handlers.Preview` write into.

    Args:
        directory: what ``tensorboard --logdir`` is given.

    Returns:
        A ``SummaryWriter``; on all processes but the first, something that takes everything and writes nothing.

    Raises:
        ConfigError: if TensorBoard is not installed.
    """
    if idist.get_rank() > 0:
        return _Nowhere()
    # Its one use of TensorFlow is remote storage, which costs seconds and pages of warnings where that is installed.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"TensorBoard logs into {directory} need the package tensorboard ({error}): pip install "
            "'monai-synth[tracking]', or leave them out; history.csv and previews are written anyway."
        ) from error
    return SummaryWriter(log_dir=str(directory))


class _Nowhere:
    """A log that nobody reads."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None

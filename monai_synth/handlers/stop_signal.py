"""A signal to stop, noted when it comes and obeyed when it suits."""

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

import ignite.distributed as idist

from monai_synth.errors import ConfigError


class StopSignal:
    """While entered, signals to this process do not end it, but are noted.

    ``scancel``, a preemption and the end of a job's time send SIGTERM, Ctrl-C sends SIGINT. Only the main thread can
    listen; elsewhere nothing is noted and signals do what they always did. A second Ctrl-C interrupts at once.

    Args:
        names: such as ``"SIGTERM"`` and ``"SIGINT"``; empty: none.

    Raises:
        ConfigError: for a name that is no signal.
    """

    def __init__(self, names: Sequence[str] = ("SIGTERM",)) -> None:
        known = {entry.name for entry in signal.Signals}
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"stop_signals: {unknown[0]!r} is no signal. Choose SIGTERM, SIGINT or SIGUSR1, say.")
        self.signals = [signal.Signals[name] for name in names]
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._received = 0
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def received(self) -> str:
        """Name of the signal that this or any other process of the training got, else an empty text.

        All processes must ask at the same time; the answer costs one exchange of one number among them (0.3 ms between
        two on one CPU).
        """
        number = self._received
        if idist.get_world_size() > 1 and self.signals:
            number = int(idist.all_reduce(float(number), op="MAX"))
        return signal.Signals(number).name if number else ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number

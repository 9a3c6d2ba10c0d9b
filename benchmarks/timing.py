"""Compare functions that take turns, so that a busy moment of the machine hits all of them."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

CLEAN = 0.08  # of the machine's cores, that others may use while a clean time is taken
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Turn:
    """One of the functions that take turns.

    Attributes:
        function: what is timed.
        context: in which it runs; entering it is not timed.
        rounds: in how many of the first rounds it takes part.
        warm_up: calls before the one that is timed, in every round.
    """

    function: Callable[[], object]
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    rounds: int = 5
    warm_up: int = 1


@dataclass
class Best:
    """The smallest time of a function.

    Attributes:
        seconds: the smallest of the clean times, or of all where there was no clean one.
        num_clean: how many times were taken while other processes used less than ``CLEAN`` of the machine.
    """

    seconds: float = float("inf")
    num_clean: int = 0

    def add(self, seconds: float, *, is_clean: bool) -> None:
        """Take one more time into account."""
        if is_clean and self.num_clean == 0:
            self.seconds = seconds
        elif is_clean or self.num_clean == 0:
            self.seconds = min(self.seconds, seconds)
        self.num_clean += is_clean


def take_turns(
    turns: Mapping[str, Turn],
    report: Callable[[str, float, float], object] = lambda *_: None,
    *,
    use_cpu_time: bool = False,
) -> dict[str, Best]:
    """Time functions in rounds, in each of which every one is called once; times under foreign load are set aside.

    Args:
        turns: what to time, by name.
        report: called with the name, the seconds and the foreign load of every time.
        use_cpu_time: count the seconds of this process on all cores, whatever else the machine does. With one thread
            that is nearly the time on a quiet machine.
    """
    found = {name: Best() for name in turns}
    for round_number in range(max(turn.rounds for turn in turns.values())):
        for name, turn in turns.items():
            if round_number < turn.rounds:
                with turn.context():
                    for _ in range(turn.warm_up):
                        turn.function()
                    seconds, foreign, of_cpu = timed(turn.function)
                seconds = of_cpu if use_cpu_time else seconds
                found[name].add(seconds, is_clean=use_cpu_time or foreign < CLEAN)
                report(name, seconds, foreign)
    return found


def timed(function: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of a call, the part of all cores that others used meanwhile (0 where Linux cannot tell), and CPU time."""
    busy, own, start = _busy_seconds(), time.process_time(), time.perf_counter()
    function()
    seconds, mine, all_busy = time.perf_counter() - start, time.process_time() - own, _busy_seconds() - busy
    num_cores = os.cpu_count() or 1
    # The kernel counts in ticks, on every core.
    error = num_cores / _TICKS_A_SECOND
    return seconds, max(all_busy - mine - error, 0.0) / (seconds * num_cores), mine


def interleaved(functions: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, float]:
    """Smallest time of each function in seconds, over rounds in which each runs once, after one round to warm up."""
    for function in functions.values():
        function()
    best = take_turns({name: Turn(f, rounds=repeats, warm_up=0) for name, f in functions.items()})
    return {name: found.seconds for name, found in best.items()}


def _busy_seconds() -> float:
    """Seconds that all cores have worked since the start of the machine."""
    try:
        user, nice, system, _, _, interrupt, soft, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + interrupt + soft + steal) / _TICKS_A_SECOND

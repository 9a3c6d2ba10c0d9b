"""Compare functions that take turns, so that a busy moment of the machine hits all of them."""

import time
from collections.abc import Callable, Mapping


def interleaved(functions: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, float]:
    """Smallest time of each function in seconds, over rounds in which each runs once, after one round to warm up."""
    best = dict.fromkeys(functions, float("inf"))
    for round_number in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds = time.perf_counter() - start
            if round_number > 0:
                best[name] = min(best[name], seconds)
    return best

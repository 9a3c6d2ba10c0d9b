"""``python -m benchmarks.memory MANIFEST CACHE``: memory of reading all slices twice, in MiB, and the cache's size."""

import sys
from collections.abc import Callable
from pathlib import Path


def _status_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024


def resident_mib() -> float:
    """Resident memory of this process."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float:
    """Greatest resident memory of this process so far."""
    return _status_mib("VmHWM")


def peak_mib(function: Callable[[], object]) -> float:
    """Greatest resident memory while a function runs, beyond that before it (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_mib()
    function()
    return _status_mib("VmHWM") - before


def main() -> None:
    """Prepare, read everything, report."""
    from benchmarks.__main__ import parse

    cohort, cache = Path(sys.argv[1]), Path(sys.argv[2])
    parser = parse(cohort, cache, device="cpu", channels=4)
    parser.get_parsed_content("train#preprocessing")
    before = resident_mib()
    dataset = parser.get_parsed_content("train#dataset")
    for _ in range(2):
        for index in range(len(dataset)):
            dataset[index]
    size = sum(file.stat().st_size for file in cache.rglob("*.npy")) / 2**20
    print(f"{resident_mib() - before:.0f} {size:.0f}")


if __name__ == "__main__":
    main()

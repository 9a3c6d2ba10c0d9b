"""``python -m benchmarks.memory MANIFEST CACHE``: memory of reading all slices twice, in MiB, and the cache's size."""

import sys
from pathlib import Path

from benchmarks.__main__ import parse


def resident_mib() -> float:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Prepare, read everything, report."""
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

"""What the machine can do: its fastest matrix product, to compare with what a network achieves."""

import platform
import time

import torch

import monai_synth

SIZE = 2048


def describe_machine() -> str:
    """Versions, threads and processor, for a table."""
    return (
        f"monai_synth {monai_synth.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, Python {platform.python_version()}."
    )


def peak_gflops(dtype: torch.dtype, *, use_cpu_time: bool = False, repeats: int = 20) -> float:
    """GFLOP/s of the product of two matrices of 2048 x 2048, the best of some calls."""
    clock = time.process_time if use_cpu_time else time.perf_counter
    a, b = torch.randn(SIZE, SIZE).to(dtype), torch.randn(SIZE, SIZE).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        torch.mm(a, b)
        best = min(best, clock() - start)
    return 2 * SIZE**3 / best / 1e9

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


def peak_gflops(dtype: torch.dtype, repeats: int = 20) -> float:
    """GFLOP/s of the product of two matrices of 2048 x 2048, the best of some calls."""
    a, b = torch.randn(SIZE, SIZE).to(dtype), torch.randn(SIZE, SIZE).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best / 1e9

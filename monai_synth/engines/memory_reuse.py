"""Keep freed memory for the next iteration, instead of asking the kernel for the same pages again and again.

Every iteration of a training makes and frees the same large tensors (activations, gradients). The allocator of glibc
gives blocks of 32 MiB and more back to the kernel at once, and when it gets them again the kernel fills every page with
zeros: gigabytes a step, about a tenth of the time of pix2pixHD and OASIS on a CPU.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["reused_memory"]

# Options of mallopt (malloc.h), and the values that glibc adapts itself to where a program frees large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK, _LARGEST_TOP = 32 * 2**20, 64 * 2**20
_UNLIMITED = 2**31 - 1
_depth = 0


@contextmanager
def reused_memory(enabled: bool = True) -> Iterator[None]:
    """Let this process keep the memory that it frees; at the end it is given back.

    For trainings on the CPU: those on GPUs have an allocator of their own that does so. Other systems than Linux with
    glibc, and other allocators (jemalloc, tcmalloc), are left as they are. The values that are computed do not change.

    Args:
        enabled: ``False`` does nothing.
    """
    global _depth
    libc = _glibc() if enabled else None
    if libc is None:
        yield
        return
    if _depth == 0:
        libc.mallopt(_MMAP_THRESHOLD, _UNLIMITED)
        libc.mallopt(_TRIM_THRESHOLD, _UNLIMITED)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
            libc.mallopt(_TRIM_THRESHOLD, _LARGEST_TOP)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)

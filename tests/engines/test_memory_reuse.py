"""The memory that a training frees stays in the process."""

import platform
import resource
import subprocess
import sys
from typing import Any

import pytest
import torch

from monai_synth.engines import reused_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")

# In processes of their own: what earlier tests left in the heap is reused without asking the kernel.
_FAULTS = """
import resource, torch
from monai_synth.engines import reused_memory

def faults(num_rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_rounds):
        torch.ones(40 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""


def _run(script: str) -> list[int]:
    """Numbers that a script prints; ``faults(n)`` gives the pages that n tensors of 40 MiB asked the kernel for."""
    result = subprocess.run([sys.executable, "-c", _FAULTS + script], capture_output=True, text=True, check=True)
    return [int(word) for word in result.stdout.split()]


@needs_glibc
def test_pages_are_asked_for_once() -> None:
    script = """
with reused_memory():
    with reused_memory():
        faults(2)
    kept = faults(10)  # the inner one does not end the outer one
print(kept, faults(10))
"""
    kept, given_back = _run(script)
    assert kept < given_back / 3


def test_switched_off_it_changes_nothing() -> None:
    with reused_memory(enabled=False):
        assert torch.ones(3).sum() == 3


@needs_glibc
def test_the_memory_is_given_back_also_after_an_error() -> None:
    script = """
try:
    with reused_memory():
        faults(2)
        raise RuntimeError("stop")
except RuntimeError:
    faults(2)
    print(faults(10))
"""
    (given_back,) = _run(script)
    assert given_back > 9 * 40 * 2**20 // resource.getpagesize() // 2


@needs_glibc
def test_a_training_on_the_cpu_keeps_its_memory(make_trainer: Any, monkeypatch: Any) -> None:
    from monai_synth.engines import memory_reuse

    trainer, depths = make_trainer(max_epochs=1), []
    iterate = trainer._iteration
    monkeypatch.setattr(trainer, "_process_function", lambda *a: (depths.append(memory_reuse._depth), iterate(*a))[1])
    trainer.run()
    assert set(depths) == {1}
    assert memory_reuse._depth == 0

"""The memory that a training frees stays in the process."""

import platform
import resource
from typing import Any

import pytest
import torch

from monai_synth.engines import reused_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
_MIB = 2**20


def _faults(num_rounds: int) -> int:
    """Pages that the kernel had to give for tensors of 40 MiB, made and freed again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_rounds):
        torch.ones(40 * _MIB // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@needs_glibc
def test_pages_are_asked_for_once() -> None:
    with reused_memory():
        with reused_memory():
            _faults(2)
        kept = _faults(10)  # the inner one does not end the outer one
    given_back = _faults(10)
    assert kept < given_back / 3


def test_switched_off_it_changes_nothing() -> None:
    with reused_memory(enabled=False):
        assert torch.ones(3).sum() == 3


@needs_glibc
def test_the_memory_is_given_back_also_after_an_error() -> None:
    def fail() -> None:
        with reused_memory():
            _faults(2)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    _faults(2)
    assert _faults(10) > 9 * 40 * _MIB // resource.getpagesize() // 2


@needs_glibc
def test_a_training_on_the_cpu_keeps_its_memory(make_trainer: Any, monkeypatch: Any) -> None:
    from monai_synth.engines import memory_reuse

    trainer, depths = make_trainer(max_epochs=1), []
    iterate = trainer._iteration
    monkeypatch.setattr(trainer, "_process_function", lambda *a: (depths.append(memory_reuse._depth), iterate(*a))[1])
    trainer.run()
    assert set(depths) == {1}
    assert memory_reuse._depth == 0

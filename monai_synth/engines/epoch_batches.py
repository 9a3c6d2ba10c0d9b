"""The batches of a data loader as an engine takes them: an interrupted epoch goes on where it was."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

Then = Callable[[], object]


class EpochBatches:
    """A loader that can leave out the first batches of an epoch without loading them.

    Worker processes are started deaf to SIGTERM and SIGINT: who stops a job signals all of its processes, and a loader
    whose workers die of it ends the training before its state is saved. Workers end with the loader.

    Args:
        loader: anything that gives batches; only a PyTorch ``DataLoader`` over a map-style data set can leave out
            batches without loading them, others are read past them.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self._skip: tuple[int, Then] | None = None

    def skip(self, num_batches: int, then: Then) -> None:
        """Leave out the first batches, the next time only.

        Args:
            num_batches: how many.
            then: called when the order of the batches is known and before the first one is loaded, to put random
                generators where they were.
        """
        self._skip = (num_batches, then)

    def __iter__(self) -> Iterator[Any]:
        skip, self._skip = self._skip, None
        batches = self.loader if skip is None else _rest(self.loader, *skip)
        with _workers_deaf():
            return iter(batches)


def _rest(loader: Iterable[Any], num_batches: int, then: Then) -> Iterable[Any]:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return _Rest(loader, num_batches, then)
    order: Iterable[Any] = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    rest: Any = _Rest(order, num_batches, then)
    is_batched = loader.batch_sampler is not None
    return DataLoader(
        loader.dataset,
        **({"batch_sampler": rest} if is_batched else {"batch_size": None, "sampler": rest}),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


class _Rest:
    """What follows the first items."""

    def __init__(self, items: Iterable[Any], num_skipped: int, then: Then) -> None:
        self.items = items
        self.num_skipped = num_skipped
        self.then = then

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.items)
        for _ in islice(iterator, self.num_skipped):
            pass
        self.then()
        yield from iterator


@contextmanager
def _workers_deaf() -> Iterator[None]:
    """Processes that are started inside inherit a mask that blocks signals to stop."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

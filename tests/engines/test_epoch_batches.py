"""An interrupted epoch goes on with the batches that it has left."""

import signal
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from monai_synth.engines.epoch_batches import EpochBatches


class Counted(Dataset):
    """Says which items were read, and how its process takes signals."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return {"index": index, "deaf": signal.SIGTERM in blocked}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(7))


def _loaders() -> dict[str, Any]:
    data = Counted()
    sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=3)
    return {
        "distributed": DataLoader(data, batch_size=2, sampler=sampler),
        "shuffled": DataLoader(data, batch_size=2, shuffle=True, drop_last=True),
        "generator": DataLoader(data, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(4)),
        "workers": DataLoader(data, batch_size=2, sampler=sampler, num_workers=2),
        "unbatched": DataLoader(data, batch_size=None, sampler=sampler),
        "stream": DataLoader(Stream(), batch_size=2),
        "list": [torch.tensor(number) for number in range(6)],
    }


def _values(batch: Any) -> Any:
    return torch.as_tensor(batch["index"] if isinstance(batch, dict) else batch).tolist()


@pytest.mark.parametrize("name", list(_loaders()))
def test_the_rest_is_what_would_have_followed(name: str) -> None:
    torch.manual_seed(0)
    whole = [_values(batch) for batch in _loaders()[name]]
    torch.manual_seed(0)
    batches, calls = EpochBatches(_loaders()[name]), []
    batches.skip(2, lambda: calls.append(len(getattr(getattr(batches.loader, "dataset", None), "read", ()))))
    assert [_values(batch) for batch in batches] == whole[2:]
    assert calls == [0]  # once, and before anything was loaded
    assert len(list(batches)) == len(whole)  # the next epoch is whole again


def test_batches_that_were_seen_are_not_loaded() -> None:
    loader = _loaders()["distributed"]
    batches = EpochBatches(loader)
    batches.skip(4, lambda: None)
    order = list(loader.sampler)
    assert sum(1 for _ in batches) == 2
    assert loader.dataset.read == order[8:]


def test_only_workers_are_deaf_to_signals() -> None:
    batches = list(EpochBatches(_loaders()["workers"]))
    assert all(batch["deaf"].all() for batch in batches)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])

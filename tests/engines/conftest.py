"""A very small adversarial training that runs on generated tensors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from monai.utils import set_determinism
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from monai_synth.engines import SynthesisTrainer
from monai_synth.networks import PatchDiscriminator, UNetGenerator
from monai_synth.objectives import Pix2Pix


class ToySlices(Dataset):
    """Target = -condition, in nine smooth slices of 16 x 16."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 1, 4, 4, generator=generator) * 2 - 1
        condition = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")[0]
        return {"condition": condition, "target": -condition, "case_id": f"case{index}", "patient_id": f"p{index}"}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    set_determinism(seed=0)
    yield
    set_determinism(seed=None)


@pytest.fixture
def make_trainer() -> Callable[..., SynthesisTrainer]:
    def make(**options: Any) -> SynthesisTrainer:
        torch.manual_seed(1)
        generator = UNetGenerator(channels=4, num_downs=3, dropout=0.5, norm=options.pop("norm", "batch"))
        discriminator = PatchDiscriminator(in_channels=2, channels=4, num_layers=1)
        objective = options.pop("objective", None) or Pix2Pix(generator, discriminator, adversarial="lsgan")
        dataset = options.pop("dataset", None) or ToySlices()
        batch_size = options.pop("batch_size", 2)
        sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=0)
        optimizers = options.pop("optimizers", None) or {
            name: torch.optim.Adam(player.parameters(), lr=1e-3, betas=(0.5, 0.999))
            for name, player in objective.players.items()
        }
        loader = options.pop("loader", None) or DataLoader(
            dataset, batch_size=batch_size, sampler=sampler, generator=torch.Generator()
        )
        arguments: dict[str, Any] = {"device": "cpu", "max_epochs": 2, **options}
        return SynthesisTrainer(train_data_loader=loader, objective=objective, optimizers=optimizers, **arguments)

    return make

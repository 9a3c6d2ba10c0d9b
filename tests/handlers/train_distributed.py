"""A toy training on several processes, for ``torch.distributed.run``; not a test itself."""

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.utils import set_determinism
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from monai_synth.engines import SynthesisTrainer, distribute, start_process_group, stop_process_group
from monai_synth.networks import PatchDiscriminator, UNetGenerator
from monai_synth.objectives import Pix2Pix
from tests.engines.conftest import ToySlices
from tests.handlers.trainings import assemble, everything


def _make_trainer(max_epochs: int, player_intervals: dict[str, int]) -> SynthesisTrainer:
    torch.manual_seed(1)
    device = torch.device("cpu")
    objective = Pix2Pix(
        distribute(UNetGenerator(channels=4, num_downs=3, dropout=0.5), device),
        distribute(PatchDiscriminator(in_channels=2, channels=4, num_layers=1), device),
        adversarial="lsgan",
    )
    dataset = ToySlices()
    loader = DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, seed=0), generator=torch.Generator())
    optimizers = {name: torch.optim.Adam(player.parameters(), lr=1e-3) for name, player in objective.players.items()}
    return SynthesisTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=loader,
        objective=objective,
        optimizers=optimizers,
        player_intervals=player_intervals,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    start_process_group()
    set_determinism(seed=idist.get_rank())
    trainer, checkpoint, ema = assemble(
        _make_trainer, given.folder, max_epochs=3, player_intervals={"generator": 2}, ema={"refresh_batch_norm": 2}
    )
    checkpoint.start(trainer, resume=given.resume)

    def stop_the_last(_: Any) -> None:
        if idist.get_rank() == idist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    if given.stop_at:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=given.stop_at), stop_the_last)
    trainer.run()
    torch.save(everything(trainer, ema), given.folder / f"rank{idist.get_rank()}.pt")
    stop_process_group()


if __name__ == "__main__":
    main()

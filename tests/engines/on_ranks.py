"""Trainings on parts of batches and an evaluation on parts of a cohort, by one or several processes.

As a script it is one of several gloo processes: ``python -m tests.engines.on_ranks FOLDER RANK RANKS``.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from monai_synth.engines import SynthesisEvaluator, SynthesisTrainer, distribute, stop_process_group
from monai_synth.metrics import CaseScores
from tests.engines.tiny_objectives import BUILDERS, Wrap, build, make_batches

BATCH_SIZE = 2
# name -> objective and what it is built with; all in the form in which a batch may be cut into pieces.
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {"r1_interval": 2, "r1_gamma": 0.1} if name == "usis" else {}) for name in BUILDERS},
    "oasis with dont_care": ("oasis", {"dont_care": 0}),
    "oasis without balance": ("oasis", {"dont_care": 0, "balance": False}),
    "spade with published divergence": ("spade", {"average_kld": False, "lambda_kld": 5.0}),
}
NUM_CASES = 5  # odd: on two processes one case is evaluated twice


def train(name: str, *, wrap: Wrap, part: slice = slice(None), **options: Any) -> dict[str, Any]:
    """Two epochs of two batches in double precision, by plain gradient descent (Adam would turn the rounding of a
    vanishing gradient into a full step).

    Returns:
        ``weights``, everything in the state dicts of the players, and ``losses``, those of every step.
    """
    method, given = TRAININGS[name]
    objective = build(method, wrap=wrap, is_per_image=True, **{**given, **options})
    trainer = SynthesisTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=make_batches(method, batch_size=BATCH_SIZE, num_batches=2, part=part),
        objective=objective,
        optimizers={name: torch.optim.SGD(player.parameters(), lr=1e-2) for name, player in objective.players.items()},
    )
    losses: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: losses.append({k: v.item() for k, v in e.state.output.items() if k[:2] in ("g_", "d_", "s_")}),
    )
    trainer.run()
    weights = {
        f"{player}.{key.replace('module.', '')}": value.detach().clone()
        for player, network in objective.players.items()
        for key, value in network.state_dict().items()
    }
    return {"weights": weights, "losses": losses}


def in_double(network: nn.Module, **_: Any) -> nn.Module:
    """What one process puts around a network."""
    return network.double()


def distributed_in_double(network: nn.Module, **options: Any) -> nn.Module:
    """What each of several processes does."""
    return distribute(network.double(), torch.device("cpu"), **options)


class _Volumes(Dataset):
    """Cases of two patients; the error of the network below is the number of the case."""

    def __len__(self) -> int:
        return NUM_CASES

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(index)) * 300
        identity = {"case_id": f"case{index}", "patient_id": f"p{index % 2}"}
        return {
            "condition": target + index + 1,
            "target": MetaTensor(target),
            "mask": torch.ones(1, 8, 8, 8),
            **identity,
        }


def evaluate() -> dict[str, Any]:
    """Metrics of all cases, of which each process synthesises its part, and the cases they were computed from."""
    scores = CaseScores()
    sampler = DistributedSampler(_Volumes(), shuffle=False) if torch.distributed.is_initialized() else None
    evaluator = SynthesisEvaluator(
        device="cpu",
        val_data_loader=DataLoader(_Volumes(), batch_size=1, sampler=sampler),
        network=nn.Identity(),
        inferer=lambda condition, network: network(condition),
        key_val_metric={"mae_hu": scores},
    )
    evaluator.run(1)
    return {"mae_hu": evaluator.state.metrics["mae_hu"], "cases": list(scores.table["case_id"])}


def batch_norm() -> dict[str, Tensor]:
    """One step of a generator with batch norm, which only GPUs synchronise."""
    objective = build("pix2pix", wrap=lambda network, **_: distribute(network, torch.device("cpu")))
    SynthesisTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[
            {k: v.float() if isinstance(v, Tensor) else v for k, v in batch.items()}
            for batch in make_batches(
                "pix2pix", batch_size=BATCH_SIZE, num_batches=1, part=slice(torch.distributed.get_rank(), None, 2)
            )
        ],
        objective=objective,
        optimizers={name: torch.optim.SGD(player.parameters(), lr=1e-2) for name, player in objective.players.items()},
    ).run()
    return objective.players["generator"].state_dict()


def run_ranks(folder: Path, num_ranks: int = 2) -> list[dict[str, Any]]:
    """What every process of all trainings and the evaluation leaves."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engines.on_ranks", str(folder), str(rank), str(num_ranks)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        said = [process.communicate(timeout=540)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    return [
        torch.load(folder / f"rank{rank}.pt", weights_only=True) | {"said": said[rank]} for rank in range(num_ranks)
    ]


def _main(folder: str, rank: int, num_ranks: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks
    )
    part = slice(rank, None, num_ranks)
    left: dict[str, Any] = {name: train(name, wrap=distributed_in_double, part=part) for name in TRAININGS}
    torch.save({**left, "evaluation": evaluate(), "batch norm": batch_norm()}, f"{folder}/rank{rank}.pt")
    stop_process_group()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

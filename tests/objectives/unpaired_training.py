"""Trainings on unpaired images through the real trainer: official ones to follow, small ones of our own.

As a script it is one of several processes of a small training: ``python unpaired_training.py NAME FOLDER RANK RANKS``.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from torch import nn

from monai_synth.checkpoints.importers import import_state
from monai_synth.engines import SynthesisTrainer, distribute, stop_process_group
from monai_synth.networks import PatchDiscriminator, PatchSampler, ResNetGenerator
from monai_synth.objectives import Cut, CycleGan

SIZE = (16, 24)
NCE_LAYERS = (0, 4, 8, 12)
NUM_PLACES = (22 * 30, 16 * 24, 8 * 12, 4 * 6)


def small_resnet(**options: Any) -> ResNetGenerator:
    """Layers 0, 4, 8 and 12: padded condition, two convolutions in front of a halving, first residual block."""
    return ResNetGenerator(**{"channels": 4, "num_blocks": 2, "antialias_down": True, "antialias_up": True, **options})


def small_judge(**options: Any) -> PatchDiscriminator:
    return PatchDiscriminator(**{"in_channels": 1, "channels": 4, "num_layers": 1, "norm": "instance", **options})


def build_cut(
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network, make: Callable[..., Cut] = Cut, **options: Any
) -> Cut:
    """A small CUT with places that it would draw again in another process."""
    torch.manual_seed(0)
    settings = {"norm": options.pop("norm", "instance"), "dropout": options.pop("dropout", 0.0)}
    settings["activation_checkpointing"] = options.pop("activation_checkpointing", False)
    networks = [
        small_resnet(**settings),
        small_judge(antialias=True),
        PatchSampler(in_channels=[1, 8, 16, 16], out_channels=8),
    ]
    source = torch.Generator().manual_seed(5)
    options = {
        "nce_layers": NCE_LAYERS,
        "draw_places": lambda: [torch.randperm(count, generator=source)[:12] for count in NUM_PLACES],
        **options,
    }
    return make(*map(wrap, networks), **options)


def build_cyclegan(wrap: Callable[[nn.Module], nn.Module] = lambda network: network, **options: Any) -> CycleGan:
    torch.manual_seed(0)
    networks = [small_resnet(), small_resnet(), small_judge(), small_judge()]
    return CycleGan(*map(wrap, networks), **options)


BUILDERS: dict[str, Callable[..., Any]] = {"cut": build_cut, "cyclegan": build_cyclegan}


def make_batches(num_images: int = 4, num_batches: int = 3) -> list[dict[str, torch.Tensor]]:
    """Smooth images of two kinds: the targets are inverted, and of others."""
    source = torch.Generator().manual_seed(3)
    coarse = torch.rand(num_batches, 2, num_images, 1, 4, 6, generator=source) * 1.6 - 0.8
    smooth = nn.functional.interpolate(coarse.reshape(-1, 1, 4, 6), size=SIZE, mode="bilinear")
    return [{"condition": a, "target": -b} for a, b in smooth.reshape(num_batches, 2, num_images, 1, *SIZE).unbind(0)]


def train_plainly(
    name: str, part: slice = slice(None), wrap: Callable[[nn.Module], nn.Module] = lambda network: network
) -> dict[str, torch.Tensor]:
    """Train on parts of the batches in double precision, by plain gradient descent; all final weights.

    Adam would turn the rounding of a vanishing gradient into a full step.
    """
    objective = BUILDERS[name](wrap=lambda network: wrap(network.double()))
    batches = [{key: value[part].double() for key, value in batch.items()} for batch in make_batches()]
    optimizers = {name: torch.optim.SGD(player.parameters(), lr=1e-3) for name, player in objective.players.items()}
    train(objective, batches, optimizers=optimizers)
    return {
        f"{name}.{key.replace('module.', '')}": value.detach().clone()
        for name, player in objective.players.items()
        for key, value in player.state_dict().items()
    }


def train_on_ranks(name: str, folder: Path, num_ranks: int = 2) -> list[dict[str, torch.Tensor]]:
    """Final weights of every process of a training in which each has its part of every batch."""
    command = [sys.executable, __file__, name, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), str(num_ranks)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(num_ranks)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _train_as_rank(name: str, folder: str, rank: int, num_ranks: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks
    )
    weights = train_plainly(
        name, slice(rank, None, num_ranks), wrap=lambda network: distribute(network, torch.device("cpu"))
    )
    torch.save(weights, f"{folder}/rank{rank}.pt")
    stop_process_group()


def make_optimizers(objective: Any, lr: float = 2e-4) -> dict[str, torch.optim.Optimizer]:
    """Adam as published, one for each player, in the order of the players."""
    return {
        name: torch.optim.Adam(player.parameters(), lr=lr, betas=(0.5, 0.999))
        for name, player in objective.players.items()
    }


def train(objective: Any, batches: Iterable[Mapping[str, Any]], **options: Any) -> list[dict[str, float]]:
    """Train through some batches once, with the published Adam; every loss of every step."""
    trainer = SynthesisTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        objective=objective,
        **({"optimizers": make_optimizers(objective)} | options),
    )
    steps: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: steps.append({k: v.item() for k, v in engine.state.output.items() if k[:2] in ("g_", "d_")}),
    )
    trainer.run()
    return steps


class OfficialTraining:
    """One golden file: start weights, batches, and what the official code made of them.

    Args:
        file: the golden file.
        names: official names of the networks.
    """

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        self.values = dict(np.load(file))
        self.config: dict[str, Any] = json.loads(str(self.values["config"]))
        self.imported = {name: import_state(self._state(name), name) for name in names}

    def _state(self, name: str) -> dict[str, torch.Tensor]:
        prefix = f"sd/{name}/"
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in self.values.items() if k.startswith(prefix)}

    def network(self, name: str) -> torch.nn.Module:
        return self.imported[name].network.train()

    def batches(self, dtype: torch.dtype = torch.float32) -> list[dict[str, torch.Tensor]]:
        return [
            {"condition": torch.from_numpy(a).to(dtype), "target": torch.from_numpy(b).to(dtype)}
            for a, b in zip(self.values["in/A"], self.values["in/B"], strict=True)
        ]

    def loss_gaps(
        self, steps: list[dict[str, float]], terms: Mapping[str, tuple[str, ...]], factors: Mapping[str, float]
    ) -> dict[str, float]:
        """Greatest difference of every official loss from the sum of our terms times the factor."""
        return {
            name: max(
                abs(factors.get(name, 1.0) * sum(step[term] for term in ours) - expected)
                for step, expected in zip(steps, self.values[f"out/loss_{name}"], strict=True)
            )
            for name, ours in terms.items()
        }

    def weight_gap(self, name: str) -> float:
        """Greatest difference of the final weights that rounding does not move."""
        state, used = self.imported[name].network.state_dict(), self.imported[name].report.used
        prefix = f"out/final_sd/{name}/"
        gaps = []
        for key, value in self.values.items():
            official = key.removeprefix(prefix)
            is_unstable = f"{name}/{official}" in self.config["final_sd_unstable_keys"]
            if key.startswith(prefix) and official in used and not is_unstable:
                gaps.append(float(np.abs(state[used[official]].numpy() - value).max()))
        assert len(gaps) > 4
        return max(gaps)

    def image_gap(self, name: str, key: str) -> float:
        """Greatest difference of the image that the trained generator makes of the first condition."""
        network = self.imported[name].network.float().eval()
        with torch.no_grad():
            fake = network(self.batches()[0]["condition"])
        return float(np.abs(fake.numpy() - self.values[key]).max())


if __name__ == "__main__":
    _train_as_rank(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

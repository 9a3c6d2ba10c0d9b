"""Official trainings on label maps and real images, followed by our objectives through the real trainer."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch.nn import functional

from monai_synth.checkpoints.importers import import_state
from monai_synth.engines import SynthesisTrainer
from monai_synth.transforms.instance_edges import instance_edges


class PairedTraining:
    """One golden file: start weights, batches, and what the official code made of them.

    Args:
        golden: the file.
        terms: official name of a loss -> our name, and what ours has to be multiplied by.
    """

    def __init__(self, golden: Any, terms: Mapping[str, tuple[str, float]]) -> None:
        self.golden = golden
        self.config: dict[str, Any] = json.loads(str(golden["config"]))
        self.terms = dict(terms)
        self.imported = {player: self._import(player) for player in "GD"}

    def _import(self, player: str) -> Any:
        prefix = f"sd/{player}/"
        values = {key.removeprefix(prefix): self.golden[key] for key in self.golden.files if key.startswith(prefix)}
        state = {
            key: torch.from_numpy(value.reshape(()) if key.endswith("tracked") else value)
            for key, value in values.items()
        }
        return import_state(state, prefix)

    def network(self, player: str) -> torch.nn.Module:
        return self.imported[player].network.train()

    @property
    def batches(self) -> list[dict[str, Any]]:
        """One-hot labels with instance edges behind them, and the real images."""
        num_classes = (self.config.get("opt") or self.config)["label_nc"]
        batches = []
        for label, instances, image in zip(*(self.golden[f"in/{k}"] for k in ("label", "inst", "image")), strict=True):
            one_hot = functional.one_hot(torch.from_numpy(label[:, 0]).long(), num_classes).movedim(-1, 1).float()
            edges = instance_edges(torch.from_numpy(instances)).float()
            batches.append({"condition": torch.cat([one_hot, edges], dim=1), "target": torch.from_numpy(image)})
        return batches

    def train(self, objective: Any, *, rates: Mapping[str, float], betas: tuple[float, float], **options: Any) -> dict:
        """Train through all batches once; every loss of every step, under its official name and weight."""
        trainer = SynthesisTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=self.batches,
            objective=objective,
            optimizers={
                player: torch.optim.Adam(network.parameters(), lr=rates[player], betas=betas)
                for player, network in objective.players.items()
            },
            **options,
        )
        steps: list[dict[str, float]] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: steps.append({k: v.item() for k, v in engine.state.output.items() if k[:2] in ("g_", "d_")}),
        )
        trainer.run()
        return {
            official: np.array([factor * step[ours] for step in steps if ours in step])
            for official, (ours, factor) in self.terms.items()
            if ours in steps[0]
        }

    def loss_gaps(self, losses: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Greatest difference of every loss from the official one."""
        return {name: float(np.abs(found - self.golden[f"out/loss_{name}"]).max()) for name, found in losses.items()}

    def weight_gaps(self, player: str) -> dict[str, float]:
        """Greatest difference of every final entry that rounding does not move, by the official key."""
        prefix, state = f"out/final_sd/{player}/", self.imported[player].network.state_dict()
        gaps = {}
        for key in self.golden.files:
            official = key.removeprefix(prefix)
            is_unstable = f"{player}/{official}" in self.config["final_sd_unstable_keys"]
            # Synchronised batch norm of the original never counts its batches.
            if key.startswith(prefix) and not is_unstable and not official.endswith("tracked"):
                ours = state[self.imported[player].report.used[official]].numpy()
                gaps[official] = float(np.abs(ours - self.golden[key].reshape(ours.shape)).max())
        return gaps

    def image_gap(self) -> float:
        """Greatest difference of the image that the trained generator makes in eval mode."""
        with torch.no_grad():
            fake = self.imported["G"].network.eval()(self.batches[0]["condition"])
        return float(np.abs(fake.numpy() - self.golden["out/final_eval_fake"]).max())


@pytest.fixture
def paired_training(shared_dir: Path) -> Callable[..., PairedTraining]:
    """Make a :class:`PairedTraining` of the golden file of this name."""

    def load(name: str, terms: Mapping[str, tuple[str, float]]) -> PairedTraining:
        return PairedTraining(np.load(shared_dir / "golden" / f"{name}.npz"), terms)

    return load

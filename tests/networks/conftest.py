"""Golden numbers of published networks, loaded into ours through the importer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_checkpoint


class GoldenCase:
    """One file of golden numbers: weights, inputs and what the official code makes of them."""

    def __init__(self, file: Path, folder: Path):
        self.values = dict(np.load(file))
        self.config: dict[str, Any] = json.loads(str(self.values["config"]))
        self.folder = folder

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.values[key])

    def network(self) -> torch.nn.Module:
        state = {
            key.removeprefix("sd/"): torch.from_numpy(value).reshape(() if key.endswith("tracked") else value.shape)
            for key, value in self.values.items()
            if key.startswith("sd/")
        }
        file = self.folder / "official_net.pth"
        torch.save(state, file)
        self.imported = import_checkpoint(file)
        return self.imported.network

    def tolerance(self, mode: str) -> float:
        return max(1e-4, 20 * float(self.config["noise_fp64"][mode]))

    def check(self, mode: str) -> dict[str, float]:
        """Run our network as the official code was run; greatest differences of outputs, gradients and buffers."""
        network = self.network().train(mode == "train")
        x = self.tensor("in/x").requires_grad_()
        out = network(x)
        prediction = out if isinstance(out, torch.Tensor) else out[0][-1]
        loss = (prediction**2).mean()
        loss.backward()
        norm = float(torch.stack([p.grad.double().norm() for p in network.parameters() if p.grad is not None]).norm())
        grad = self.tensor(f"grad/{mode}/x")
        differences = {
            "out": _gap(prediction, self.tensor(f"out/{mode}")),
            "loss": abs(float(loss.detach()) - float(self.values[f"out/{mode}_loss"].item())),
            "grad_relative": _gap(x.grad, grad) / float(grad.abs().max()),
            "param_norm_relative": abs(norm / float(self.values[f"grad/{mode}_param_norm"]) - 1),
        }
        if mode == "train":
            renamed = self.imported.report.used
            after = network.state_dict()
            for key in self.values:
                if key.startswith("out/sd_after_train/"):
                    ours = after[renamed[key.removeprefix("out/sd_after_train/")]]
                    differences[key] = _gap(ours.float(), self.tensor(key).float().reshape(ours.shape))
        return differences


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a.detach() - b).abs().max())


@pytest.fixture
def golden_case(golden_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], GoldenCase]:
    """Load one golden file by name: the copy that travels with the tests, else the complete set where there is one."""

    def load(name: str) -> GoldenCase:
        file = golden_dir / f"{name}.npz"
        if not file.is_file():
            file = request.getfixturevalue("shared_dir") / "golden" / f"{name}.npz"
        return GoldenCase(file, tmp_path)

    return load


@pytest.fixture
def hash_fill() -> Callable[[str, torch.Tensor, float], torch.Tensor]:
    """Weights of the full-width golden files: an integer hash of key and position, see the golden README."""

    def fill(key: str, like: torch.Tensor, gain: float) -> torch.Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(7)
        mix = (np.arange(like.numel(), dtype=np.uint64) + (np.uint64(_crc(key)) << np.uint64(32))).astype(np.uint64)
        with np.errstate(over="ignore"):
            mix = mix + np.uint64(0x9E3779B97F4A7C15)
            mix = (mix ^ (mix >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mix = (mix ^ (mix >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mix = mix ^ (mix >> np.uint64(31))
        u = (mix >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        c = np.float32(2) * u - np.float32(1)
        if like.ndim >= 2:
            is_transposed = key.startswith("up:")
            fan_in = like.shape[0] * 16 / 4 if is_transposed else like.numel() / like.shape[0]
            values = c * np.float32(np.sqrt(3.0) * gain / np.sqrt(fan_in))
        elif key.endswith("running_var"):
            values = np.float32(0.5) + u
        elif key.endswith("weight"):
            values = 1 + np.float32(0.2) * c
        else:
            values = np.float32(0.2) * c
        return torch.from_numpy(values.astype(np.float32)).reshape(like.shape)

    return fill


def _crc(key: str) -> int:
    import zlib

    return zlib.crc32(key.removeprefix("up:").encode())

"""Golden numbers of published networks, loaded into ours through the importer."""

import json
import zlib
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

    def state(self) -> dict[str, torch.Tensor]:
        """The official state dict."""
        return {
            key.removeprefix("sd/"): torch.from_numpy(value).reshape(() if key.endswith("tracked") else value.shape)
            for key, value in self.values.items()
            if key.startswith("sd/")
        }

    def check_published(
        self, keys_file: Path, name: str, is_transposed: Callable[[str], bool] = lambda key: False, **hints: Any
    ) -> float:
        """Fill a network of published width by the rule of the golden README; greatest difference of its output."""
        entries = json.loads(keys_file.read_text())["networks"][name]["keys"]
        stored = self.state()  # singular vectors
        state = {
            key: stored[key]
            if key in stored
            else fill(key, torch.empty(shape), self.config["gain"], is_transposed=is_transposed(key))
            for key, shape, _, _ in entries
        }
        network = self.network(state, **hints)
        assert sum(p.numel() for p in network.parameters()) == self.config["n_params"]
        with torch.no_grad():
            matched = self.match("eval", self.forward(network, self.inputs()))
        return max(_gap(ours, self.tensor(key)) for key, ours in matched.items())

    def network(self, state: dict[str, torch.Tensor] | None = None, **hints: Any) -> torch.nn.Module:
        """Our network with the official weights, through the importer."""
        file = self.folder / "official_net.pth"
        torch.save(state or self.state(), file)
        self.imported = import_checkpoint(file, **hints)
        return self.imported.network

    def tolerance(self, mode: str) -> float:
        return max(1e-4, 20 * float(self.config["noise_fp64"][mode]))

    def inputs(self) -> dict[str, torch.Tensor]:
        """Inputs by their official names: ``x``, or ``seg`` with ``z`` and ``edges``; labels become one-hot ``seg``."""
        names = [name for name in ("x", "seg", "z", "edges") if f"in/{name}" in self.values]
        found = {name: self.tensor(f"in/{name}").float() for name in names}
        if "in/label" in self.values:
            labels = self.tensor("in/label").long()
            found["seg"] = torch.nn.functional.one_hot(labels, self.config["opt"]["semantic_nc"]).movedim(-1, 1).float()
        return found

    def forward(self, network: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
        condition = inputs["x"] if "x" in inputs else inputs["seg"]
        if "edges" in inputs:
            condition = torch.cat([condition, inputs["edges"]], dim=1)
        return network(condition, inputs["z"]) if "z" in inputs else network(condition)

    def match(self, mode: str, out: Any) -> dict[str, torch.Tensor]:
        """Official output key -> our tensor. Without features the official discriminators return the logits alone."""
        keys = [key for key in self.values if key == f"out/{mode}" or key.startswith(f"out/{mode}/")]
        if isinstance(out, torch.Tensor):
            assert keys == [f"out/{mode}"]
            return {keys[0]: out}
        matched = {}
        for key in keys:
            indices = [int(part) for part in key.split("/")[2:]] or [0, 0]
            is_logits_alone = not any(other.endswith(f"/{mode}/{indices[0]}/1") for other in keys)
            matched[key] = out[indices[0]][-1 if is_logits_alone else indices[1]]
        return matched

    def check(
        self, mode: str, match: Callable[[str, Any], dict[str, torch.Tensor]] | None = None, **hints: Any
    ) -> dict[str, float]:
        """Run our network as the official code was run; greatest differences of outputs, gradients and buffers."""
        network = self.network(**hints).train(mode == "train")
        inputs = {name: value.requires_grad_() for name, value in self.inputs().items()}
        matched = (match or self.match)(mode, self.forward(network, inputs))
        loss = torch.stack([(ours**2).mean() for ours in matched.values()]).mean()
        loss.backward()
        norm = float(torch.stack([p.grad.double().norm() for p in network.parameters() if p.grad is not None]).norm())
        differences = {
            "out": max(_gap(ours, self.tensor(key)) for key, ours in matched.items()),
            "loss": abs(float(loss.detach()) - float(self.values[f"out/{mode}_loss"].item())),
            "param_norm_relative": abs(norm / float(self.values[f"grad/{mode}_param_norm"].item()) - 1),
        }
        for name, value in inputs.items():
            grad = self.tensor(f"grad/{mode}/{name}")
            differences[f"grad_{name}_relative"] = _gap(value.grad, grad) / float(grad.abs().max())
        if mode == "train":
            renamed = self.imported.report.used
            after = network.state_dict()
            for key in self.values:
                # Synchronised batch norm of the originals never counts its batches.
                if key.startswith("out/sd_after_train/") and not key.endswith("tracked"):
                    ours = after[renamed[key.removeprefix("out/sd_after_train/")]]
                    differences[key] = _gap(ours.float(), self.tensor(key).float().reshape(ours.shape))
        return differences


def fill(key: str, like: torch.Tensor, gain: float, *, is_transposed: bool) -> torch.Tensor:
    """Weights of the full-width golden files: an integer hash of key and position, see the golden README."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    with np.errstate(over="ignore"):
        mix = np.arange(like.numel(), dtype=np.uint64) + (np.uint64(zlib.crc32(key.encode())) << np.uint64(32))
        mix = mix + np.uint64(0x9E3779B97F4A7C15)
        mix = (mix ^ (mix >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mix = (mix ^ (mix >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mix = mix ^ (mix >> np.uint64(31))
    u = (mix >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    c = np.float32(2) * u - np.float32(1)
    if like.ndim >= 2:
        kernel = int(np.prod(like.shape[2:]))
        fan_in = like.shape[0] * kernel / 4 if is_transposed else like.numel() / like.shape[0]
        values = c * np.float32(np.sqrt(3.0) * gain / np.sqrt(fan_in))
    elif key.endswith("running_var"):
        values = np.float32(0.5) + u
    elif key.endswith("weight"):
        values = 1 + np.float32(0.2) * c
    else:
        values = np.float32(0.2) * c
    return torch.from_numpy(values.astype(np.float32)).reshape(like.shape)


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

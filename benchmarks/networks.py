"""``python -m benchmarks.networks``: forward time and peak memory of the networks beside its publication's layer list.

Both run at 256 x 256, batch 1, in evaluation mode and fp32; ``benchmarks/NETWORKS.md`` is written. Random weights.
"""

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import monai_synth
from benchmarks import plain_networks as plain
from benchmarks import plain_wavelets
from benchmarks.memory import peak_mib
from benchmarks.timing import interleaved
from monai_synth.networks import build, fold_spectral_norm

ROOT = Path(__file__).resolve().parent.parent
OASIS_MULTIPLES = (16, 16, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Pair:
    """One of our networks and its publication's layers."""

    plain: Callable[[], nn.Module]
    channels: int
    arguments: dict[str, Any] = field(default_factory=dict)


def _patch(channels: int, **options: Any) -> Pair:
    return Pair(partial(plain.PatchDiscriminators, channels, **options), channels)


PAIRS = {
    "pix2pix_unet": Pair(plain.unet, 3, {"out_channels": 3}),
    "resnet": Pair(plain.resnet, 3, {"out_channels": 3}),
    "cut_resnet": Pair(partial(plain.resnet, is_antialiased=True), 3, {"out_channels": 3}),
    "pix2pixhd_global": Pair(partial(plain.resnet, 36, 64, 4, 9), 36, {"out_channels": 3}),
    "pix2pixhd_local": Pair(plain.LocalEnhancer, 36, {"out_channels": 3}),
    "spade": Pair(partial(plain.SpadeGenerator, 36), 36, {"out_channels": 3}),
    "oasis": Pair(partial(plain.SpadeGenerator, 35, noise=64, multiples=OASIS_MULTIPLES), 35, {"out_channels": 3}),
    "usis_wavelet": Pair(partial(plain_wavelets.ResidualWaveletGenerator, 35), 35, {"out_channels": 3}),
    "patchgan": _patch(6, num_scales=1, padding=1, norm="batch"),
    "pix2pixhd_multiscale": _patch(39, num_scales=2, padding=2, norm="instance"),
    "spade_multiscale": _patch(39, num_scales=2, padding=2, norm="instance", use_spectral_norm=True),
    "oasis_discriminator": Pair(partial(plain.OasisDiscriminator, 35), 3, {"num_classes": 35}),
    "wavelet_discriminator": Pair(plain_wavelets.WaveletDiscriminator, 3),
    "lgg_unet": Pair(plain.LggUnet, 3),
}


def make(name: str, kind: str) -> nn.Module:
    """One network of a pair: ``ours``, ``plain``, ``folded`` (ours without spectral norm) or ``channels_last``."""
    torch.manual_seed(0)
    pair = PAIRS[name]
    if kind == "plain":
        return pair.plain().eval()
    options = {"channels_last": True} if kind == "channels_last" else {}
    network = build(name, in_channels=pair.channels, **pair.arguments, **options).eval()
    return fold_spectral_norm(network) if kind == "folded" else network


def _input(name: str) -> torch.Tensor:
    return torch.randn(1, PAIRS[name].channels, 256, 256)


def _gflop(network: nn.Module, x: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return counter.get_total_flops() / 1e9


def _measure_peak(name: str, kind: str) -> float:
    """Peak memory of one forward pass in a process of its own, beyond the weights."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.networks", name, kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def row(name: str) -> str:
    """Measure one pair.

    Raises:
        ValueError: if the pair cannot be compared.
    """
    x = _input(name)
    networks = {kind: make(name, kind) for kind in ("ours", "plain", "channels_last", "folded")}
    gflop = {kind: _gflop(networks[kind], x) for kind in ("ours", "plain")}
    if _count(networks["ours"]) != _count(networks["plain"]) or gflop["ours"] > 1.01 * gflop["plain"]:
        raise ValueError(f"{name}: ours has other parameters or more operations than its publication's layers.")
    with torch.no_grad():
        seconds = interleaved({kind: partial(network, x) for kind, network in networks.items()}, repeats=5)
    peak = {kind: _measure_peak(name, kind) for kind in ("ours", "plain")}
    ratio = {kind: seconds[kind] / seconds["plain"] for kind in seconds}
    return (
        f"| {name} | {gflop['ours']:.1f} / {gflop['plain']:.1f} | {seconds['ours']:.3f} s | {ratio['ours']:.2f} | "
        f"{ratio['channels_last']:.2f} | {ratio['folded']:.2f} | {peak['ours']:.0f} / {peak['plain']:.0f} MiB |"
    )


def main() -> None:
    """Measure all pairs and write the table, or the memory of one network."""
    if len(sys.argv) == 3:
        network, x = make(sys.argv[1], sys.argv[2]), _input(sys.argv[1])
        with torch.no_grad():
            print(peak_mib(lambda: network(x)))
        return
    lines = [
        "# What the networks cost",
        "",
        "Made by `make bench-networks`: one forward pass at 256 x 256, batch 1, evaluation mode, fp32, published",
        "widths, beside the same layers in plain PyTorch (`benchmarks/plain_networks.py`, `plain_wavelets.py`). They",
        "take turns in one run and the smallest of five times counts. Ratios: ours / plain; `channels_last` and",
        "`folded` (spectral norm folded into the weights) are options of ours. Peak memory is that of one forward",
        "pass beyond the weights.",
        "",
        f"monai_synth {monai_synth.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, Python {platform.python_version()}.",
        "",
        "| network | GFLOP ours / plain | ours | ratio | channels_last | folded | peak memory ours / plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in PAIRS:
        lines.append(row(name))
        print(lines[-1], flush=True)
    (ROOT / "benchmarks" / "NETWORKS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Images per second of the generators: plain PyTorch in fp32 beside ours prepared for inference, and their memory."""

import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_resident_mib
from benchmarks.methods import Method, copy_weights, methods
from benchmarks.timing import Turn, take_turns
from monai_synth.inferers import prepare_for_inference

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "plain fp32": None,
    "ours fp32": {"precision": "fp32"},
    "ours fp32, compiled": {"precision": "fp32", "compile": True},
    "ours bf16": {"precision": "bf16"},
    "ours bf16, compiled": {"precision": "bf16", "compile": True},
}


def make(method: Method, kind: str) -> nn.Module:
    """A generator in evaluation mode, all with the same weights."""
    generator, _ = method.make_ours()
    options = KINDS[kind]
    if options is not None:
        return prepare_for_inference(generator, **options)  # type: ignore[arg-type]
    plain = method.plain[0]()
    copy_weights(generator, plain, method.batch(1)["condition"])
    return plain.eval()


def run(network: nn.Module, condition: Tensor) -> Tensor:
    """One image; the noise is drawn inside, the same every time."""
    torch.manual_seed(0)
    with torch.no_grad():
        image: Tensor = network(condition)
    return image


def inference_table(chosen: dict[str, Method], peaks: dict[str, float], arguments: Namespace) -> list[str]:
    """Time, memory and error of one image.

    Raises:
        ValueError: if ours in fp32 do not give the image of the plain network.
    """
    lines = [
        "## Inference of one image",
        "",
        "`prepare_for_inference`, batch 1. Ratio: how many times as fast as plain fp32 in evaluation mode. Error: mean",
        "absolute difference from its image, whose values are in [-1, 1] (random weights: check your own model).",
        "Memory: peak of a process that makes three images, compiling included.",
        "",
        "| method | kind | images/s | ratio | achieved of the GEMM | error | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in chosen.items():
        condition = method.batch(1)["condition"]
        networks = {kind: make(method, kind) for kind in KINDS}
        images = {kind: run(network, condition) for kind, network in networks.items()}
        errors = {kind: (image - images["plain fp32"]).abs().mean().item() for kind, image in images.items()}
        for kind in ("ours fp32", "ours fp32, compiled"):
            largest = (images[kind] - images["plain fp32"]).abs().max().item()
            if largest > 1e-4:
                raise ValueError(f"{name}: the image of {kind} differs by {largest:.1e} from the plain one.")
        with FlopCounterMode(display=False) as counter:
            run(networks["plain fp32"], condition)
        gflop = counter.get_total_flops() / 1e9
        turns = {
            kind: Turn(partial(run, network, condition), rounds=arguments.rounds or 10)
            for kind, network in networks.items()
        }
        best = take_turns(turns, use_cpu_time=arguments.cpu_time)
        for kind, found in best.items():
            mark = "" if found.num_clean and best["plain fp32"].num_clean else "~"
            peak = peaks["bf16" if "bf16" in kind else "fp32"]
            ratio = best["plain fp32"].seconds / found.seconds
            lines.append(
                f"| {name} | {kind} | {1 / found.seconds:.2f} | {mark}{ratio:.2f} | "
                f"{100 * gflop / found.seconds / peak:.0f} % | {errors[kind]:.1e} | "
                f"{_peak_of(name, kind, quick=arguments.quick):.0f} MiB |"
            )
            print(lines[-1], flush=True)
        del networks, turns
        torch.compiler.reset()
    return [*lines, ""]


def _peak_of(name: str, kind: str, *, quick: bool) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.inference", name, kind, "quick" if quick else "full"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


if __name__ == "__main__":
    _method = methods(quick=sys.argv[3] == "quick")[sys.argv[1]]
    _network, _condition = make(_method, sys.argv[2]), _method.batch(1)["condition"]
    for _ in range(3):
        run(_network, _condition)
    print(peak_resident_mib())

"""``python -m benchmarks.training``: our training steps beside the published order of operations in plain PyTorch.

Writes ``benchmarks/TRAINING.md``. ``--quick`` runs tiny networks and prints only, ``--compile`` adds compiled networks
(minutes), ``--methods`` chooses. Before anything is timed, the losses of the first step must agree.
"""

import argparse
import gc
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks.inference import inference_table
from benchmarks.machine import SIZE, describe_machine, peak_gflops
from benchmarks.memory import peak_resident_mib
from benchmarks.methods import Method, methods, run_step
from benchmarks.timing import CLEAN, Best, take_turns
from benchmarks.variants import Bench, main_turns, measure_turns
from monai_synth.engines import reused_memory

ROOT = Path(__file__).resolve().parent.parent
LARGEST_GAP = 1e-5
ROUNDS = {"pix2pix": 6, "pix2pixHD": 4, "OASIS": 3}
MEASURE_ROUNDS = {"pix2pix": 5, "pix2pixHD": 3, "OASIS": 2}


@dataclass
class Result:
    """What was measured of one method at one batch size."""

    name: str
    batch_size: int
    gap: float
    gflop: dict[str, float]
    best: dict[str, Best] = field(default_factory=dict)

    def ratio(self, variant: str) -> str:
        """How many times as fast as plain; ``~`` where the machine was never quiet."""
        plain, found = self.best["plain"], self.best[variant]
        mark = "" if plain.num_clean and found.num_clean else "~"
        return f"{mark}{plain.seconds / found.seconds:.2f}"

    def seconds(self, variant: str) -> str:
        """Seconds of a step."""
        return f"{self.best[variant].seconds:.3g} s"

    def achieved(self, variant: str, peak: float) -> str:
        """Percent of the fastest matrix product."""
        gflop = self.gflop["plain" if variant == "plain" else "ours"]
        return f"{100 * gflop / self.best[variant].seconds / peak:.0f} %"


def measure(name: str, method: Method, batch_size: int, arguments: argparse.Namespace) -> Result:
    """Time all variants of a method (beyond batch 1 only plain and ours).

    Raises:
        ValueError: if the losses of the first step differ, so that times could not be compared.
    """
    bench = Bench.make(method, batch_size)
    gap = bench.gap(channels_last=method.channels_last)
    if not gap <= LARGEST_GAP:
        raise ValueError(f"{name}: a loss of the first step differs by {gap:.1e} from the plain one.")
    result = Result(name, batch_size, gap, bench.gflop())
    turns = main_turns(bench, arguments.rounds or ROUNDS[name])
    if batch_size == 1 and not arguments.main_only:
        turns |= measure_turns(bench, arguments.rounds or MEASURE_ROUNDS[name], has_compile=arguments.compile)
    result.best = take_turns(turns, partial(_report, name, batch_size), use_cpu_time=arguments.cpu_time)
    del bench, turns
    gc.collect()
    return result


def _report(name: str, batch_size: int, variant: str, seconds: float, foreign: float) -> None:
    print(f"{name} b{batch_size} {variant}: {seconds:.3f} s, others used {100 * foreign:.0f} %", flush=True)


def peak_of(name: str, kind: str, *, quick: bool) -> float:
    """Peak resident memory, MiB, of a process that takes three steps of batch 1."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training", "--memory", name, kind]
    command += ["--quick"] if quick else []
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def print_peak(name: str, kind: str, *, quick: bool) -> None:
    """Take the steps of :func:`peak_of` in this process."""
    method = methods(quick=quick)[name]
    batch = method.batch(1)
    if kind == "plain":
        step = method.step(*(make() for make in method.plain))
        for _ in range(3):
            step(batch)
    else:
        networks = method.make_ours()
        for network in networks:
            if method.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = method.make_trainer(*networks, precision=kind)
        with reused_memory():
            for _ in range(3):
                run_step(trainer, batch)
    print(peak_resident_mib())


def step_table(results: list[Result], peaks: dict[str, float]) -> list[str]:
    """Seconds, ratios and how far from the machine's limit."""
    lines = [
        "## Steps",
        "",
        "Ratio: how many times as fast as plain fp32. Achieved: percent of the GEMM above. Gap: the greatest",
        "difference of a loss of the first step between plain and ours in fp32, over 1 or the loss if larger.",
        "",
        "| method | batch | plain fp32 | ours fp32 | ratio | ours bf16 | ratio | achieved: plain, fp32, bf16 | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        achieved = [
            result.achieved(variant, peaks[precision])
            for variant, precision in (("plain", "fp32"), ("ours fp32", "fp32"), ("ours bf16", "bf16"))
        ]
        lines.append(
            f"| {result.name} | {result.batch_size} | {result.seconds('plain')} | {result.seconds('ours fp32')} | "
            f"**{result.ratio('ours fp32')}** | {result.seconds('ours bf16')} | **{result.ratio('ours bf16')}** | "
            f"{', '.join(achieved)} | {result.gap:.0e} |"
        )
    return [*lines, ""]


def measure_table(results: list[Result]) -> list[str]:
    """What each measure brings alone."""
    alone = [result for result in results if result.batch_size == 1]
    names = list(dict.fromkeys(name for result in alone for name in result.best))
    lines = [
        "## What each measure brings alone",
        "",
        "Batch 1; how many times as fast as plain fp32, everything else as in plain (the last lines: as in ours). A",
        "dash: it would change the result, or there is nothing to change. Pix2pix judges through batch norm and OASIS",
        "through spectral norms that move with every pass, so fake and real may not share a pass.",
        "",
        "| measure | " + " | ".join(result.name for result in alone) + " |",
        "|---|" + "---|" * len(alone),
    ]
    for name in names[1:]:
        cells = [result.ratio(name) if name in result.best else "-" for result in alone]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def memory_table(names: list[str], *, quick: bool) -> list[str]:
    """Peak memory of training, per method."""
    lines = [
        "## Memory",
        "",
        "Peak resident memory of a process that takes three steps, batch 1, Python and libraries included.",
        "",
        "| method | plain fp32 | ours fp32 | ours bf16 |",
        "|---|---|---|---|",
    ]
    for name in names:
        peaks = [peak_of(name, kind, quick=quick) for kind in ("plain", "fp32", "bf16")]
        lines.append(f"| {name} | " + " | ".join(f"{peak:.0f} MiB" for peak in peaks) + " |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round, nothing is written")
    parser.add_argument("--compile", action="store_true", help="also compiled training: 70 to 190 s for each method")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count CPU time, for busy machines (OMP_NUM_THREADS=1); nothing is written",
    )
    parser.add_argument("--steps-only", action="store_true", help="without memory and inference; nothing is written")
    parser.add_argument("--main-only", action="store_true", help="without the measures alone; nothing is written")
    parser.add_argument("--rounds", type=int, help="of every variant")
    parser.add_argument("--methods", nargs="+", default=list(ROUNDS), choices=list(ROUNDS))
    parser.add_argument("--memory", nargs=2, metavar=("METHOD", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.rounds or 1
    if arguments.memory:
        print_peak(*arguments.memory, quick=arguments.quick)
        return
    chosen = {name: method for name, method in methods(quick=arguments.quick).items() if name in arguments.methods}
    peaks = {
        name: peak_gflops(dtype, use_cpu_time=arguments.cpu_time)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    results = []
    for name, method in chosen.items():
        results.append(measure(name, method, 1, arguments))
        if name == "pix2pix":
            results.append(measure(name, method, 4, arguments))
    text = "\n".join(
        [
            "# What training and inference cost",
            "",
            "Made by `make bench-training`: published widths at 256 x 256, beside the published order of operations in",
            "plain PyTorch fp32 with its Adam (`benchmarks/plain_steps.py`, `plain_networks.py`), with the same start",
            "weights. Variants take turns in one process; a time counts if other processes used less than "
            f"{100 * CLEAN:.0f} %",
            "of the cores meanwhile, and the smallest is shown. `~`: there was no such moment. Compare ratios, not",
            "seconds, between machines. Random weights and images; pix2pixHD without its perceptual loss.",
            "",
            describe_machine(),
            f"Matrix product of {SIZE} x {SIZE}: {peaks['fp32']:.0f} GFLOP/s in fp32, {peaks['bf16']:.0f} in bf16.",
            "",
            *step_table(results, peaks),
            *measure_table(results),
            *(() if arguments.steps_only else memory_table(list(chosen), quick=arguments.quick)),
            *(() if arguments.steps_only else inference_table(chosen, peaks, arguments)),
        ]
    )
    print(text)
    is_partial = arguments.quick or arguments.cpu_time or arguments.steps_only or arguments.main_only
    is_partial |= len(chosen) < len(ROUNDS)
    if not is_partial:
        (ROOT / "benchmarks" / "TRAINING.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""``python -m benchmarks``: what the MR to CT bundle costs on this machine, written to ``benchmarks/RESULTS.md``."""

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

import monai_synth
from benchmarks.timing import interleaved
from monai_synth.data.phantom import write_demo_cohort

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundles" / "mr_to_ct_pix2pix"


def parse(cohort: Path, out: Path, **overrides: Any) -> ConfigParser:
    """The bundle's training config for a cohort."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser.update({"bundle_root": str(BUNDLE), "manifest": str(cohort), "output_dir": str(out), **overrides})
    parser.parse()
    return parser


def loader_and_steps(folder: Path, cohort: Path) -> list[str]:
    """The published width (64 channels), 192 x 192, batch 4: what the loader gives and what a step takes."""
    steps: dict[str, Callable[[], object]] = {}
    for precision in ("fp32", "bf16"):
        parser = parse(cohort, folder / "cached", precision=precision, device="cpu")
        trainer = parser.get_parsed_content("train#trainer")
        batch = next(iter(trainer.data_loader))
        trainer.state.iteration = 1

        def step(trainer: Any = trainer, batch: Any = batch) -> None:
            trainer.objective.players["generator"].train()
            trainer._iteration(trainer, batch)

        steps[precision] = step
    dataset = trainer.data_loader.dataset
    stored = dataset.slice_transform
    epochs: dict[str, Callable[[], object]] = {"augmented": lambda: list(trainer.data_loader)}
    seconds = interleaved({**steps, **epochs}, repeats=4)
    dataset.slice_transform = None
    indices = list(range(0, len(dataset), 3))
    bare = interleaved({"bare": lambda: [dataset[i] for i in indices]}, repeats=4)["bare"]
    dataset.slice_transform = stored
    given = len(dataset) / seconds["augmented"]
    rows = [
        f"| slices/s from the loader, augmented, no workers | {given:.0f} |",
        f"| slices/s from the cache alone | {len(indices) / bare:.0f} |",
    ]
    for precision in steps:
        taken = 4 / seconds[precision]
        rows += [
            f"| training step, batch 4, {precision} | {seconds[precision]:.2f} s = {taken:.1f} slices/s |",
            f"| loader / step, {precision} | {given / taken:.0f} x |",
        ]
    rows.append(f"| step fp32 / bf16 | {seconds['fp32'] / seconds['bf16']:.2f} x |")
    return rows


def inference(folder: Path, cohort: Path) -> list[str]:
    """Seconds for one volume, network only."""
    rows = []
    for channels in (32, 64):
        parser = parse(cohort, folder / "cached", channels=channels, device="cpu")
        network, inferer = (parser.get_parsed_content(key) for key in ("network_def", "validate#inferer"))
        network.eval()
        volume = torch.rand(1, 1, 160, 192, 60) * 2 - 1

        def translate(network: Any = network, inferer: Any = inferer, volume: Any = volume) -> None:
            with torch.no_grad():
                inferer(volume, network)

        seconds = interleaved({"volume": translate}, repeats=2)["volume"]
        rows.append(f"| inference, 160 x 192 x 60 voxels, {channels} channels, fp32 | {seconds:.1f} s |")
    return rows


def memory(folder: Path) -> list[str]:
    """Resident memory of a process that has read every slice of a cohort."""
    rows = []
    for count in (4, 16, 64):
        cohort = write_demo_cohort(folder / f"cohort{count}", num_patients=count, seed=1, voxel_mm=3.0)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.memory",
            str(cohort),
            str(folder / f"cache{count}"),
        ]
        line = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()[-1]
        rows.append(
            f"| memory beyond the imports, {count} volumes ({line.split()[1]} MiB on disk) | {line.split()[0]} MiB |"
        )
    return rows


def main() -> None:
    """Measure everything and write the table."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_demo_cohort(folder / "cohort", num_patients=6, seed=0, voxel_mm=2.0)
        rows = [*loader_and_steps(folder, cohort), *inference(folder, cohort), *memory(folder)]
    text = "\n".join(
        [
            "# What the MR to CT bundle costs",
            "",
            "Made by `make bench`. Functions take turns in one run and the smallest time counts; compare ratios, not",
            "seconds, between machines.",
            "",
            f"monai_synth {monai_synth.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{platform.machine()}, Python {platform.python_version()}.",
            "",
            "| what | measured |",
            "|---|---|",
            *rows,
            "",
        ]
    )
    (ROOT / "benchmarks" / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

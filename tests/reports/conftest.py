"""A run's folder as a training and its evaluation leave it, from drawn heads: small, odd-sized, anisotropic, seeded."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

SPACING_MM = (2.0, 2.5, 4.0)
SHAPE = (61, 57, 15)
BASELINES = {"body_as_water": 1.0, "mean_target_by_condition": 0.6, "histogram_match": 0.75}


def draw_head(rng: np.random.Generator, shape: Sequence[int] = SHAPE, spacing_mm: Sequence[float] = SPACING_MM):
    """CT in HU, MR in a.u. and mask of one head, ``(x, y, z)``, with a bony spot on the right and a nose in front."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    half = np.array([max(n * s / 2, 1.0) for n, s in zip(shape, spacing_mm, strict=True)]) * rng.uniform(0.76, 0.84)
    half = [h if n > 1 else 1e3 for h, n in zip(half, shape, strict=True)]
    radius = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / (1.6 * half[2])) ** 2)
    nose = (x / 9) ** 2 + ((y - half[1]) / 11) ** 2 + (z / 22) ** 2 < 1
    body = (radius < 1) | nose
    ct = np.full(shape, -1000.0)
    ct[body] = 40.0
    ct[(radius < 0.94) & (radius > 0.80)] = 1100.0
    brain = radius <= 0.80
    ct[brain] = 35 + 12 * np.sin(x[brain] / 7) * np.cos(y[brain] / 6)
    ct[((x / 14) ** 2 + ((y + 6) / 22) ** 2 < 1) & brain] = 8.0
    ct[((x / 13) ** 2 + ((y - 0.68 * half[1]) / 9) ** 2 + (z / 15) ** 2 < 1)] = -1000.0
    ct[((x - 0.45 * half[0]) ** 2 + (y + 8) ** 2) < 36] = 700.0
    mr = np.where(body, 320 - 0.22 * np.clip(ct, -1000, 1300), 3.0) * np.where(ct < -500, 0.02, 1.0)
    mr = np.clip(mr + rng.normal(0, 6, shape), 0, None)
    ct = ct + rng.normal(0, 9, shape)
    return ct.astype(np.float32), mr.astype(np.float32), body


def predict(rng: np.random.Generator, ct: np.ndarray, body: np.ndarray, quality: float) -> np.ndarray:
    """A blurred, biased copy of the CT: worse for larger ``quality`` numbers, worst in the upper slices."""
    soft = ct.copy()
    for axis in range(3):
        if ct.shape[axis] > 2:
            soft = (np.roll(soft, 1, axis) + soft + np.roll(soft, -1, axis)) / 3
    error = quality * (soft - ct) + rng.normal(0, 15 * quality, ct.shape)
    error[:, :, -4:-2] += 60 * quality
    return np.where(body, ct + error, -1000).astype(np.int16)


def affine_of(shape: Sequence[int] = SHAPE, spacing_mm: Sequence[float] = SPACING_MM) -> np.ndarray:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(shape, spacing_mm, strict=True)]
    return affine


def save(file: Path, array: np.ndarray, affine: np.ndarray, flip: Sequence[int] = ()) -> None:
    """Write NIfTI; ``flip`` axes are stored backwards with an affine that says so (the same image to a viewer)."""
    affine = affine.copy()
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
        array = np.flip(array, axis)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), file)


def score(pred: np.ndarray, ct: np.ndarray, body: np.ndarray) -> dict[str, float]:
    shown, target = pred[body].astype(float), ct[body].astype(float)
    error = shown - target
    square = np.mean((np.clip(shown, -1024, 3000) - np.clip(target, -1024, 3000)) ** 2)
    numbers = {"mae_hu": np.abs(error).mean(), "me_hu": error.mean(), "psnr_db": 10 * np.log10(4024**2 / square)}
    numbers["ssim"] = 1 - np.abs(error).mean() / 600
    bins = {"air": target < -300, "soft_tissue": (target >= -300) & (target < 200), "bone": target >= 200}
    for name, inside in bins.items():
        numbers[f"mae_{name}_hu"] = np.abs(error[inside]).mean() if inside.any() else np.nan
    return {name: float(value) for name, value in numbers.items()}


def write_run(
    folder: Path,
    *,
    case_ids: Sequence[str] = ("P01", "P02", "P03"),
    split: str = "test",
    shape: Sequence[int] = SHAPE,
    spacing_mm: Sequence[float] = SPACING_MM,
    flip: Sequence[int] = (),
    is_good: bool = True,
    has_baselines: bool = True,
    seed: int = 0,
) -> Path:
    """Write a complete RUN_DIR; the cases get worse in the order of ``case_ids``."""
    affine = affine_of(shape, spacing_mm)
    trained = [f"T{number:02d}" for number in range(8)]
    run: dict[str, Any] = {
        "schema": 1, "name": "mr_to_ct_pix2pix", "created": "2025-03-04T10:20:30+00:00", "seed": 0,
        "device": "cpu", "precision": "fp32", "world_size": 1,
        "versions": {"monai_synth": "0.1.0", "monai": "1.6.1", "torch": "2.13.0", "python": "3.11.9"},
        "manifest": {
            "file": "data/cohort/manifest.csv", "sha256": "0f" * 32,
            "patients": {"train": trained, "val": ["V00", "V01"], "test": list(case_ids)},
            "cases": {"train": 8, "val": 2, "test": len(case_ids)},
        },
        "roles": {"condition": "mr", "target": "ct", "mask": "mask"},
        "intensity": {
            "condition": {"kind": "percentiles", "lower": 0.5, "upper": 99.5, "unit": "a.u."},
            "target": {"kind": "window", "low": -1024, "high": 2000, "unit": "HU"},
        },
        "networks": {
            "generator": {"class": "UNetGenerator", "parameters": 13_023_457},
            "discriminator": {"class": "PatchDiscriminator", "parameters": 2_768_705},
        },
        "training": {"max_epochs": 40, "batch_size": 4, "epoch_length": 100, "learning_rate": 0.0002},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    epochs = np.arange(1, 41)
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 1, (4, epochs.size))
    history = pd.DataFrame({"epoch": epochs, "seconds": 12.5, "lr": 2e-4})
    history["d_real"] = 0.25 + 0.2 * np.exp(-epochs / 8) + 0.01 * noise[0]
    history["d_fake"] = 0.24 + 0.2 * np.exp(-epochs / 7) + 0.01 * noise[1]
    history["g_gan"] = 0.5 + 0.2 * (1 - np.exp(-epochs / 10)) + 0.02 * noise[2]
    history["g_l1"] = 4 + 14 * np.exp(-epochs / 6) + 0.2 * noise[3]
    validated = epochs % 5 == 0
    history["val_mae_hu"] = np.where(validated, 60 + 120 * np.exp(-epochs / 9) + 3 * noise[0], np.nan)
    history["val_psnr_db"] = np.where(validated, 28 - 8 * np.exp(-epochs / 9), np.nan)
    history["val_ssim"] = np.where(validated, 0.88 - 0.2 * np.exp(-epochs / 9), np.nan)
    history.to_csv(folder / "history.csv", index=False)
    rows = []
    for rank, case_id in enumerate(case_ids):
        ct, mr, body = draw_head(rng, shape, spacing_mm)
        quality = (0.3 if is_good else 4.0) * (1 + 0.1 * rank)
        pred = predict(rng, ct, body, quality)
        images = {"condition": mr, "target": ct.astype(np.int16), "mask": body.astype(np.uint8)}
        files = {}
        for role, array in images.items():
            files[role] = str(folder.parent / f"{folder.name}_cohort" / f"{rank:03d}" / f"{role}.nii.gz")
            save(Path(files[role]), array, affine, flip)
        files["prediction"] = str(folder / "evaluation" / "predictions" / f"{rank:03d}.nii.gz")
        save(Path(files["prediction"]), pred, affine, flip)
        ids = {"patient_id": case_id, "case_id": case_id, "split": split}
        rows.append({"method": "model", **ids, **score(pred, images["target"], body), **files})
        for method, factor in BASELINES.items() if has_baselines else ():
            water = np.where(body, 0.0, -1000.0) * factor + ct * (1 - factor)
            rows.append({"method": method, **ids, **score(water, images["target"], body), **files, "prediction": ""})
    cases = pd.DataFrame(rows)
    cases.to_csv(folder / "evaluation" / "cases.csv", index=False)
    units = {
        name: "HU" if name.endswith("_hu") else "dB" if name.endswith("_db") else "1" for name in score(pred, ct, body)
    }
    summary = []
    for method, group in cases.groupby("method", sort=False):
        for metric, unit in units.items():
            values = group[metric].dropna().to_numpy()
            draws = rng.choice(values, (500, values.size)).mean(axis=1) if values.size > 1 else np.full(2, np.nan)
            low, high = np.percentile(draws, (2.5, 97.5))
            mean = values.mean() if values.size else np.nan
            summary.append([method, metric, unit, values.size, mean, low, high])
    columns = ["method", "metric", "unit", "n", "mean", "ci_low", "ci_high"]
    pd.DataFrame(summary, columns=columns).to_csv(folder / "evaluation" / "summary.csv", index=False)
    evaluation = {
        "split": split, "checkpoint": "models/model.pt", "epoch": 35, "preset": "synthrad2023", "precision": "fp32",
        "bins_hu": {"air": [None, -300], "soft_tissue": [-300, 200], "bone": [200, None]},
    }  # fmt: skip
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Factory of run folders below ``tmp_path``."""

    def make(name: str = "run", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


@pytest.fixture(scope="session")
def save_nifti() -> Callable[..., None]:
    """``save(file, array, affine, flip=())``, see there."""
    return save


@pytest.fixture(scope="session")
def decode() -> Callable[[str], Image.Image]:
    """Picture behind a data URI."""

    def read(uri: str) -> Image.Image:
        head, _, body = uri.partition(",")
        assert head == "data:image/png;base64"
        return Image.open(io.BytesIO(base64.b64decode(body)))

    return read

"""Demo cohort: paired T1-like MR and CT of drawn heads, with label map and body mask, different per patient.

For tests, for the demo and for a first look. The heads are drawn from formulas and random numbers: they are never a
medical result, and no number measured on them says anything about patients. The NIfTI headers say ``phantom``.

CT is int16 in HU with the couch in view, MR is int16 in arbitrary units that differ from patient to patient, labels
are those of ``LABELS``. All images of a patient share one grid: anisotropic, oblique, its axes in any order and sense.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_synth.data.phantom_anatomy import LABELS, Person, Textures, draw_head, skin_and_cavity
from monai_synth.data.phantom_brain import draw_brain
from monai_synth.data.phantom_canvas import Array, Canvas, Points, smooth_field
from monai_synth.errors import ConfigError

__all__ = ["LABELS", "PhantomPatient", "make_patient", "write_demo_cohort"]

# Field of view (mm) from left to right, from back to front and from bottom to top.
_FIELD_OF_VIEW_MM = np.array([197.0, 240.0, 200.0])
# Where its middle lies in the frame of the drawing: there is a couch behind the head, and no room for all of the neck.
_MIDDLE_MM = np.array([0.0, -4.0, -13.0])
# Voxels are longer from back to front and longer still from bottom to top.
_ANISOTROPY = np.array([1.0, 1.07, 1.25])
_ORIENTATIONS = ("LPS", "RAS", "LAS", "LPI", "PIR", "LSA", "RPS", "ASL")
_WARP_MM = 2.2
# Six patients give 4 / 1 / 1, and the split of a patient does not depend on how many there are.
_SPLITS = ("train", "val", "test", "train", "train", "train")
_IMAGES = ("mr", "ct", "mask", "labels")


@dataclass(frozen=True)
class PhantomPatient:
    """Images of one patient on one grid.

    Attributes:
        mr: ``(X, Y, Z)`` int16, T1-like, arbitrary units.
        ct: ``(X, Y, Z)`` int16 in HU.
        labels: ``(X, Y, Z)`` uint8, ids of ``LABELS``.
        mask: ``(X, Y, Z)`` uint8, 1 inside the skin, air cavities included, couch not.
        affine: ``(4, 4)``, voxel indices to RAS+ world in mm.
    """

    mr: NDArray[np.int16]
    ct: NDArray[np.int16]
    labels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_patient(
    seed: int, *, number: int = 1, voxel_mm: float = 2.0, shape: tuple[int, int, int] | None = None
) -> PhantomPatient:
    """Draw one patient.

    Args:
        seed: of the cohort.
        number: of the patient in the cohort; each is another head on another grid.
        voxel_mm: size of a voxel from left to right, about; the other sides are 1.07 and 1.25 times as long. The same
            head comes out at every size, but below 3 mm only are its thin parts (skull tables, cortex) resolved.
        shape: of the arrays; the voxels then follow from the field of view and ``voxel_mm`` does not count.

    Returns:
        About ``(96, 112, 80)`` voxels at the default size, the order of the axes by patient.

    Raises:
        ConfigError: a number below 1, voxels or a shape that cannot show a head.
    """
    if number < 1:
        raise ConfigError(f"number={number}: patients are numbered from 1. Pass 1 or more.")
    if shape is None and not 0.5 <= voxel_mm <= 15:
        raise ConfigError(
            f"voxel_mm={voxel_mm}: a head is drawn with voxels of 0.5 to 15 mm. Pass 2.0, or 6.0 for tests."
        )
    if shape is not None and (len(shape) != 3 or min(shape) < 8):
        raise ConfigError(
            f"shape={shape}: a head takes three axes of 8 voxels or more. Pass (96, 112, 80), for example."
        )
    anatomy_rng, grid_rng, noise_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, number]).spawn(3)
    )
    affine, size, world_from_drawing = _draw_grid(grid_rng, voxel_mm=voxel_mm, shape=shape)
    person = Person.draw(anatomy_rng)
    warp = [_WARP_MM * smooth_field(anatomy_rng, size, 4) for _ in range(3)]
    textures = Textures(
        coarse=smooth_field(anatomy_rng, size, 7),
        medium=smooth_field(anatomy_rng, size, 18),
        fine=smooth_field(anatomy_rng, size, 36),
        cells=smooth_field(anatomy_rng, size, 50),
    )
    bias = smooth_field(anatomy_rng, size, 2)

    drawing_from_index = np.linalg.inv(world_from_drawing) @ affine
    x, y, z = (_coordinate(drawing_from_index, axis, size) + warp[axis] for axis in range(3))
    canvas = Canvas(
        points=(x, y, z),
        index_from_point=np.linalg.inv(drawing_from_index).astype(np.float64),
        softness_mm=1.15 * float(np.abs(np.linalg.det(affine)) ** (1 / 3)),
        margin_mm=4 * _WARP_MM,
    )
    skin, cavity = skin_and_cavity(canvas.points, person, textures)
    world = (_coordinate(affine, 0, size), _coordinate(affine, 1, size), _coordinate(affine, 2, size))
    _lay_on_couch(canvas, world, skin)
    draw_head(canvas, skin, cavity, person=person, textures=textures)
    draw_brain(canvas, cavity, person=person, textures=textures)
    return PhantomPatient(
        mr=_acquire_mr(canvas, bias, textures.fine, noise_rng),
        ct=_acquire_ct(canvas, textures.fine, noise_rng),
        labels=canvas.labels,
        mask=(skin < 0).astype(np.uint8),
        affine=affine,
    )


def write_demo_cohort(out: Path, *, num_patients: int = 12, seed: int = 0, voxel_mm: float = 2.0) -> Path:
    """Write a cohort of drawn patients with its manifest.

    Args:
        out: folder, made if need be; images go to ``out/P001/mr.nii.gz`` and so on.
        num_patients: two thirds train, one sixth val and one sixth test; each has one from three patients on.
        seed: of the cohort. Patient and split ``P007`` are the same whatever ``num_patients``.
        voxel_mm: see ``make_patient``; 6.0 makes a cohort for tests in a moment.

    Returns:
        Path of ``manifest.csv``.

    Raises:
        ConfigError: no patients, or voxels that cannot show a head.
    """
    if num_patients < 1:
        raise ConfigError(
            f"num_patients={num_patients}: a cohort has at least one patient. Pass 1 or more, 12 by default."
        )
    out = Path(out)
    rows = []
    for number in range(1, num_patients + 1):
        patient_id = f"P{number:03d}"
        patient = make_patient(seed, number=number, voxel_mm=voxel_mm)
        (out / patient_id).mkdir(parents=True, exist_ok=True)
        files = {role: f"{patient_id}/{role}.nii.gz" for role in _IMAGES}
        for role, file in files.items():
            _write_nifti(out / file, getattr(patient, role), patient.affine)
        split = _SPLITS[(number - 1) % len(_SPLITS)]
        rows.append({"patient_id": patient_id, "case_id": patient_id, "split": split, **files})
    manifest = out / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["patient_id", "case_id", "split", *_IMAGES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def _draw_grid(
    rng: np.random.Generator, *, voxel_mm: float, shape: tuple[int, int, int] | None
) -> tuple[NDArray[np.float64], tuple[int, ...], NDArray[np.float64]]:
    """Affine and shape of the grid, and where the head lies in the world."""
    orientation = _ORIENTATIONS[rng.integers(len(_ORIENTATIONS))]
    axes = np.array([{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code] for code in orientation])
    signs = np.array([1.0 if code in "RAS" else -1.0 for code in orientation])
    stretch = rng.uniform(0.96, 1.04, size=3)
    tilt = _rotation(rng.uniform(-6, 6, size=3))
    isocentre = rng.uniform(-40, 40, size=3)
    head_turn = _rotation(rng.normal(0, 2.5, size=3))
    head_shift = rng.normal(0, 1.5, size=3)
    head_size = 0.95 * rng.uniform(0.955, 1.03) * rng.uniform(0.975, 1.025, size=3)

    if shape is None:
        cells = _FIELD_OF_VIEW_MM / (voxel_mm * _ANISOTROPY * stretch)
        size = tuple(round(float(cells[axis])) for axis in axes)
        spacing_mm = (voxel_mm * _ANISOTROPY * stretch)[axes]
    else:
        size = tuple(shape)
        spacing_mm = _FIELD_OF_VIEW_MM[axes] / np.array(size)
    directions = np.zeros((3, 3))
    directions[axes, np.arange(3)] = signs
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions * spacing_mm
    affine[:3, 3] = isocentre - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    world_from_drawing = np.eye(4)
    world_from_drawing[:3, :3] = head_turn * head_size
    world_from_drawing[:3, 3] = isocentre + head_shift - 0.95 * _MIDDLE_MM
    return affine, size, world_from_drawing


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _coordinate(matrix: NDArray[np.float64], row: int, size: tuple[int, ...]) -> Array:
    """One coordinate of every voxel, ``(X, Y, Z)``."""
    i, j, k = np.ogrid[: size[0], : size[1], : size[2]]
    a, b, c, offset = matrix[row].astype(np.float32)
    return np.asarray(a * i.astype(np.float32) + b * j.astype(np.float32) + (c * k.astype(np.float32) + offset))


def _lay_on_couch(canvas: Canvas, world: Points, skin: Array) -> None:
    """Paint a curved head rest into the CT: carbon shell, foam core, and a pad of foam under the head."""
    inside = skin < 0
    x, y, _ = world
    x = x - np.float32(x[inside].mean())
    depth = y - np.float32(y[inside].min()) + 7  # height over the upper shell
    radius_mm = 120.0
    bowl = np.hypot(x, depth - np.float32(radius_mm)) - np.float32(radius_mm)  # positive below the upper shell
    side = np.abs(x) - 92
    for distance, value_hu in (
        (np.maximum(np.abs(bowl + 5) - 5, np.maximum(depth - 22, side + 20)), -945.0),
        (np.maximum(np.abs(bowl - 7) - 7, side), -100.0),
        (np.maximum(np.abs(bowl - 7) - 3.5, side + 3.5), -900.0),
    ):
        share = np.clip(0.5 - distance / np.float32(canvas.softness_mm), 0, 1)
        canvas.ct += share * (np.float32(value_hu) - canvas.ct)


def _acquire_ct(canvas: Canvas, texture: Array, rng: np.random.Generator) -> NDArray[np.int16]:
    """HU with noise of 8 to 15 HU that neighbours share in part."""
    sigma_hu = rng.uniform(8, 15)
    noise = rng.standard_normal(canvas.ct.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 0.55, truncate=2.0, mode="nearest")
    noise *= np.float32(sigma_hu / noise.std())
    body = canvas.labels > 0
    ct = canvas.ct + noise + np.where(body, 3 * texture, 0)
    return np.clip(np.rint(ct), -1024, 3071).astype(np.int16)


def _acquire_mr(canvas: Canvas, bias: Array, texture: Array, rng: np.random.Generator) -> NDArray[np.int16]:
    """T1-like signal with bias field, Rician noise and a gain of its own."""
    gain = np.exp(rng.uniform(np.log(0.4), np.log(2.5)))
    sigma = rng.uniform(12, 25)
    signal = canvas.mr * np.exp(rng.uniform(0.08, 0.18) * bias) * (1 + 0.03 * texture)
    real = signal + np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.clip(np.rint(np.float32(gain) * np.hypot(real, imaginary)), 0, 32767).astype(np.int16)


def _write_nifti(file: Path, array: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"phantom"
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, file)

"""Drawn pictures of dark lesions on light skin, with masks: a cohort for the bundles of dermoscopy."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = ("train", "train", "train", "train", "val", "val", "test", "test")
SIZES = ((41, 30), (33, 37), (64, 48), (29, 29))  # width, height


def write_lesions(root: Path, *, has_bilevel_mask: bool = False, scale: int = 1) -> Path:
    """Write eight pictures of several sizes and kinds of PNG, and their manifest.

    Columns: ``image``; ``mask``, 0 and 255; ``classes``, 0 beyond the field of view, 1 skin, 2 lesion; ``instances``,
    16-bit numbers of tiles, from 1000 in the skin and from 2000 in the lesion. The first picture is RGBA.

    Args:
        root: folder to write to.
        has_bilevel_mask: save the first mask with one bit a pixel, as some programs do.
        scale: make the pictures larger by this factor.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number, split in enumerate(SPLITS):
        width, height = (scale * side for side in SIZES[number % len(SIZES)])
        y, x = np.mgrid[:height, :width]
        centre, radius = rng.uniform(0.35, 0.65, size=2), rng.uniform(0.2, 0.3) * min(width, height)
        lesion = np.hypot(x - centre[0] * width, y - centre[1] * height) < radius
        skin, brown = np.array([225.0, 180.0, 165.0]), np.array([120.0, 70.0, 50.0])
        picture = np.where(lesion[..., None], brown, skin) + rng.normal(0, 6, size=(height, width, 3))
        classes = np.where(lesion, 2, 1)
        classes[:2] = 0
        tiles = 1000 + y // 8 * 100 + x // 8 + 1000 * lesion
        name = f"lesion_{number}"
        maps = {
            "image": Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)),
            "mask": Image.fromarray((lesion * 255).astype(np.uint8)),
            "classes": Image.fromarray(classes.astype(np.uint8)),
            "instances": Image.fromarray(tiles.astype(np.uint16)),
        }
        if number == 0:
            maps["image"] = maps["image"].convert("RGBA")
            maps["mask"] = maps["mask"].convert("1") if has_bilevel_mask else maps["mask"]
        row = {"patient_id": name, "case_id": name, "split": split}
        for role, picture_of_role in maps.items():
            file = root / role / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture_of_role.save(file)
            row[role] = file.relative_to(root).as_posix()
        rows.append(row)
    manifest = root / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest

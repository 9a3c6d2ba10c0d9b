"""Anatomy of the demo head: what is where, in mm, and what it looks like in CT and T1-like MR.

Frame of the drawing: x to the right, y to the front, z up, origin in the middle of the brain, an adult of average size.
All numbers are round textbook sizes drawn by hand. Nothing here comes from a patient, and nothing drawn from it is a
medical result.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_synth.data.phantom_canvas import Array, Block, Canvas, Point, Points, Tissue, cut, ellipsoid, join, tube

LABELS: dict[int, str] = {
    0: "background",
    1: "soft tissue",
    2: "bone",
    3: "CSF",
    4: "grey matter",
    5: "white matter",
    6: "air cavity",
    7: "eye",
}

NUM_FOLD_WAVES = 20

# HU; T1-weighted signal relative to fat = 1000; label
TISSUES: dict[str, Tissue] = {
    "skin": Tissue(45, 430, 1),
    "fat": Tissue(-90, 1000, 1),
    "muscle": Tissue(55, 380, 1),
    "mucosa": Tissue(40, 480, 1),
    "dura": Tissue(62, 330, 1),
    "cortical": Tissue(1400, 45, 2),
    "marrow": Tissue(330, 760, 2),
    "petrous": Tissue(1750, 70, 2),
    "tooth": Tissue(2100, 30, 2),
    "csf": Tissue(7, 150, 3),
    "grey": Tissue(38, 500, 4),
    "white": Tissue(28, 700, 5),
    "air": Tissue(-1000, 0, 6),
    "vitreous": Tissue(8, 170, 7),
    "lens": Tissue(90, 360, 7),
    "sclera": Tissue(45, 330, 7),
}


@dataclass(frozen=True)
class Person:
    """What differs from head to head besides size and warp; lengths in mm, the rest as factors around 1."""

    skull_mm: float
    scalp_mm: float
    fat_mm: float
    ventricle_mm: float
    rim_mm: float
    sulcus_mm: float
    gyrus_mm: float
    sinus_mm: float
    asymmetry_mm: float
    frontal_mm: float
    nose_mm: float
    jaw_mm: float
    fold_directions: NDArray[np.float32]
    fold_phases: NDArray[np.float32]
    tissues: dict[str, Tissue]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Person":
        """Draw one person; tissue values vary by a few per cent."""
        age = rng.uniform(0, 1)  # wide ventricles, wide sulci and a wide rim go together
        jitter = {name: rng.normal(0, 1, size=2) for name in TISSUES}
        tissues = {
            name: Tissue(
                tissue.ct_hu + (jitter[name][0] * max(1.5, 0.03 * abs(tissue.ct_hu)) if name != "air" else 0),
                tissue.mr * (1 + 0.03 * jitter[name][1]),
                tissue.label,
            )
            for name, tissue in TISSUES.items()
        }
        directions = rng.standard_normal((NUM_FOLD_WAVES, 3))
        return cls(
            skull_mm=rng.uniform(5.5, 8.5),
            scalp_mm=rng.uniform(5.0, 7.5),
            fat_mm=rng.uniform(-1.0, 2.5),
            ventricle_mm=-0.7 + 3.4 * age + rng.normal(0, 0.5),
            rim_mm=0.8 + 1.4 * age,
            sulcus_mm=0.1 + 0.5 * age,
            gyrus_mm=rng.uniform(12.5, 15.5),
            sinus_mm=rng.uniform(-2.5, 2.0),
            asymmetry_mm=rng.normal(0, 1.2),
            frontal_mm=rng.uniform(-4.0, 2.0),
            nose_mm=rng.uniform(-3.0, 3.0),
            jaw_mm=rng.uniform(-4.0, 4.0),
            fold_directions=(directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32),
            fold_phases=rng.uniform(0, 2 * np.pi, size=(NUM_FOLD_WAVES, 2)).astype(np.float32),
            tissues=tissues,
        )


@dataclass(frozen=True)
class Textures:
    """Smooth random fields ``(X, Y, Z)`` of unit deviation, by the size of their waves."""

    coarse: Array
    medium: Array
    fine: Array
    cells: Array


def skin_and_cavity(points: Points, person: Person, textures: Textures) -> tuple[Array, Array]:
    """Distances to the skin (air cavities of the head count as inside) and to the inside of the skull, in mm."""
    cavity = _cranial_cavity(points)
    return _skin(points, cavity - _bone_mm(person, textures) - person.scalp_mm, person), cavity


def draw_head(canvas: Canvas, skin: Array, cavity: Array, *, person: Person, textures: Textures) -> None:
    """Paint all of the head but the brain, outside first; the inside of the skull is left full of CSF."""
    _paint_soft_tissue(canvas, skin, person, textures)
    _paint_skull(canvas, cavity, _bone_mm(person, textures), person)
    _paint_face(canvas, skin, cavity, person, textures)
    canvas.paint(cavity, person.tissues["csf"])
    _paint_ears(canvas, skin, person, textures)
    _paint_spine(canvas, person)


def _bone_mm(person: Person, textures: Textures) -> Array:
    """Thickness of the skull."""
    return np.maximum(person.skull_mm + 1.1 * textures.coarse, np.float32(4.0))


def mirrored(points: Points) -> Points:
    """Both sides of the head folded onto the right one."""
    return np.abs(points[0]), points[1], points[2]


def _bone(canvas: Canvas, distance: Array, person: Person, block: Block, *, shell_mm: float = 2.0) -> None:
    """Compact bone with marrow where it is thick enough."""
    canvas.paint(distance, person.tissues["cortical"], block)
    canvas.paint(distance + shell_mm, person.tissues["marrow"], block)


def _petrous(folded: Points) -> Array:
    return tube(folded, [((54, -20, -52), 11), ((36, -6, -50), 9), ((17, 9, -49), 6)])


def _cranial_cavity(points: Points) -> Array:
    """Inside of the skull: vault, middle and posterior fossa, without the spinal canal."""
    x, y, z = points
    egg = (x * (1 + np.float32(0.0017) * y), y, z)  # wider behind than in front
    folded = mirrored(points)
    floor = -32 - z + np.float32(0.06) * (y - 40)
    vault = -join(-ellipsoid(egg, (0, 0, 0), (66, 84, 67)), -floor, 12)
    temporal = ellipsoid(folded, (37, 4, -30), (25, 37, 23))
    posterior = ellipsoid(egg, (0, -43, -44), (50, 38, 28))
    stem = tube(points, [((0, -10, -30), 15), ((0, -24, -66), 14)])
    cavity = join(join(vault, temporal, 10), join(posterior, stem, 8), 6)
    return cut(cavity, _petrous(folded), 5)


def _skin(points: Points, scalp: Array, person: Person) -> Array:
    folded = mirrored(points)
    x, y, z = points
    narrow = (x * (1 + np.float32(0.003) * (y - 40)), y, z)  # a face is rounder in front than an ellipsoid
    face = ellipsoid(narrow, (0, 42, -78), (60, 56, 62))
    jaw = ellipsoid(narrow, (0, 40 + person.jaw_mm, -118), (50, 54, 42))
    temple = join(ellipsoid(folded, (48, 34, -34), (20, 28, 36)), ellipsoid(folded, (40, 20, -92), (25, 32, 48)), 12)
    temple = join(temple, ellipsoid(folded, (48, -22, -60), (20, 22, 32)), 12)
    neck = tube((x, y * np.float32(0.95), z), [((0, -24, -50), 58), ((0, -24, -100), 56), ((0, -24, -160), 58)])
    skin = join(join(scalp, neck, 14), join(join(face, jaw, 16), temple, 14), 18)
    skin = cut(skin, ellipsoid(folded, (34, 106, -50), (17, 15, 10)), 9)
    nose = tube(points, [((0, 92, -46), 5), ((0, 103 + person.nose_mm, -76), 8), ((0, 92, -86), 10)])
    skin = join(skin, join(nose, ellipsoid(folded, (9, 97, -82), (7, 9, 7)), 5), 6)
    lips = ellipsoid(points, (0, 86, -108), (30, 16, 16))
    ear = ellipsoid((folded[0] + np.float32(0.3) * (y + 14), y, z), (74, -20, -46), (5.5, 17, 29))
    return join(join(skin, lips, 12), ear, 6)


def _paint_soft_tissue(canvas: Canvas, skin: Array, person: Person, textures: Textures) -> None:
    tissues = person.tissues
    z = canvas.points[2]
    canvas.paint(skin, tissues["skin"])
    canvas.paint(skin + 2.0, tissues["fat"])
    below = 1 / (1 + np.exp((z + 45) / 12))  # under the skull the fat is thicker
    muscle = skin + 4.6 + (4.0 + person.fat_mm) * below + 0.8 * textures.medium
    canvas.paint(muscle, tissues["muscle"])
    # planes of fat between muscles, none on the vault
    plane = np.abs(textures.medium + 0.5 * textures.coarse) * 8 - 1.0 + 8 * (1 - below)
    canvas.paint(np.maximum(plane, muscle), tissues["fat"])


def _paint_skull(canvas: Canvas, cavity: Array, bone: Array, person: Person) -> None:
    tissues = person.tissues
    canvas.paint(cavity - bone, tissues["cortical"])
    middle = np.abs(cavity - 0.5 * bone - 0.1) - (0.5 * bone - 1.75)
    canvas.paint(middle, tissues["marrow"])


def _paint_face(canvas: Canvas, skin: Array, cavity: Array, person: Person, textures: Textures) -> None:
    tissues = person.tissues
    block = canvas.block((-75, 0, -130), (75, 115, -5))
    points = canvas.at(block)
    folded = mirrored(points)
    x, y, z = points
    side = person.asymmetry_mm * np.tanh(x / 8)
    cells = textures.cells[block]
    medium = textures.medium[block]
    inside = cavity[block]
    skull = (cavity - _bone_mm(person, textures))[block]
    under_skin = skin[block] + 2.5

    def paint(distance: NDArray[np.floating], name: str) -> None:
        limit = skin[block] if name == "air" else under_skin
        canvas.paint(np.maximum(distance, limit), tissues[name], block)

    def bone(distance: Array) -> None:
        _bone(canvas, np.maximum(distance, under_skin), person, block)

    # muscles of chewing
    paint(np.maximum(ellipsoid(folded, (54, 34, -38), (11, 26, 26)), -skull), "muscle")
    paint(ellipsoid(folded, (57, 32, -95), (8, 16, 28)), "muscle")
    paint(ellipsoid(folded, (33, 30, -78), (12, 18, 20)), "muscle")

    # bones
    brow = ellipsoid(points, (0, 80, -27), (30, 14, 13))
    cheek = tube(folded, [((40, 76, -64), 8), ((56, 58, -63), 6), ((65, 28, -57), 3.5), ((63, 0, -54), 4)])
    upper_jaw = ellipsoid(points, (0, 62, -82), (38, 29, 21))
    bone(join(join(brow, cheek, 4), upper_jaw, 5))
    sphenoid = ellipsoid(points, (0, 28, -50), (20, 18, 15))
    bone(sphenoid)
    paint(tube(folded, [((13, 34, -58), 3), ((15, 32, -92), 2.5)]), "cortical")
    paint(tube(folded, [((3, 89, -43), 3), ((4, 100, -60), 2.5)]), "cortical")
    ramus = tube((folded[0] * 1.6, y * 0.8, z), [((80, 7, -56), 6), ((78, 14, -100), 11), ((74, 18, -130), 11)])
    bone(ramus / 1.2)

    # orbits: bone, fat, nerve, muscles, eye
    orbit = tube(folded, [((13, 42, -47), 4), ((27, 68, -50), 18), ((33, 84, -51), 19)])
    front = y - 96 + 0.45 * folded[0]  # the outer rim lies further back
    paint(np.maximum(orbit - 2.4, front), "cortical")
    paint(np.maximum(np.maximum(orbit, front - 5), -skull - 3), "fat")
    apex: Point = (15, 45, -48)
    paint(tube(folded, [(apex, 2), ((30, 68, -50), 2.2)]), "white")
    straight_muscles: list[tuple[Point, Point]] = [
        ((27, 63, -36), (32, 80, -39)),
        ((27, 63, -63), (32, 80, -61)),
        ((18, 62, -50), (21, 80, -50)),
        ((38, 64, -50), (44, 78, -50)),
    ]
    for middle, end in straight_muscles:
        paint(tube(folded, [(apex, 1.2), (middle, 2.6), (end, 1.2)]), "muscle")
    eye = ellipsoid(folded, (32, 78, -50), (12.3, 12.3, 12.3))
    paint(eye, "sclera")
    paint(eye + 1.4, "vitreous")
    paint(ellipsoid(folded, (32.5, 86.5, -50), (4.8, 2.3, 4.8)), "lens")

    # air: nose, sinuses, throat
    paint(ellipsoid(points, (0, 60, -73), (17, 40, 23)), "mucosa")
    nose = ellipsoid(folded, (7.5, 60, -72), (7.5, 37, 21))
    nose = join(nose, tube(folded, [((7, 88, -84), 4), ((8, 99, -93), 4.5)]), 4)
    shelf = np.minimum(ellipsoid(folded, (10, 58, -84), (4.5, 25, 5)), ellipsoid(folded, (9.5, 55, -70), (3.5, 21, 4)))
    nose = np.maximum(cut(nose, shelf, 2), 1.3 - np.abs(x + 1.2 * medium))
    paint(np.minimum(nose, tube(points, [((0, 24, -74), 9), ((0, 14, -100), 8), ((0, 10, -140), 7)])), "air")
    paint(np.maximum(np.abs(x + 1.2 * medium) - 0.8, ellipsoid(points, (0, 48, -72), (6, 26, 20))), "cortical")
    maxillary = ellipsoid(folded, (27, 62, -78), (12.5, 17, 15)) - person.sinus_mm - side - 0.8 * medium
    paint(np.maximum(maxillary, 16 - folded[0]) - 2.4, "cortical")
    paint(np.maximum(maxillary, 16 - folded[0]), "air")
    paint(ellipsoid(points, (2 * person.asymmetry_mm, 30, -50), (13, 13, 9)) - 0.6 * person.sinus_mm, "air")
    ethmoid = ellipsoid(folded, (8, 62, -48), (7.5, 22, 11))
    paint(ethmoid - 1, "mucosa")
    paint(np.maximum(ethmoid, 1.0 - 5 * np.abs(cells)), "air")
    frontal = ellipsoid(folded, (12, 84, -24), (13, 7, 11)) - person.frontal_mm - 1.5 * side
    paint(np.maximum(frontal - 2.2, skin[block] + 4), "cortical")
    paint(np.maximum(np.maximum(frontal, skin[block] + 6.4), np.maximum(1 - np.abs(x), 2.2 - inside)), "air")

    paint(ellipsoid(points, (0, 50, -112), (21, 33, 17)), "muscle")  # the tongue, under the palate
    # teeth stand on the arch of the upper and of the lower jaw
    arch_radius = np.hypot(x, (y - 58) * 0.84)
    teeth = np.abs(arch_radius - 27) - 4.2 + 0.9 * np.cos(np.arctan2(x, y - 58) * 11)
    teeth = np.maximum(teeth, 50 - y)
    lower_jaw = np.maximum(np.abs(arch_radius - 28) - 6.5, np.maximum(np.abs(z + 132) - 12, 20 - y))
    bone(lower_jaw)
    for height, half in ((-104, 6), (-117, 5)):
        paint(np.maximum(teeth, np.abs(z - height) - half), "tooth")


def _paint_spine(canvas: Canvas, person: Person) -> None:
    block = canvas.block((-45, -75, -150), (45, 20, -60))
    x, y, z = canvas.at(block)
    points = (x, y, z)
    folded = mirrored(points)
    level = np.cos((z + 84) * np.float32(2 * np.pi / 19))
    body = tube(points, [((0, -10, -76), 5), ((0, -12, -92), 8), ((0, -14, -150), 10)]) + np.clip(-2.6 * level, 0, 2)
    around = np.hypot(x, (y + 31) * 1.05)
    ring = np.maximum(np.hypot(around - 13, (1 - level) * 4) - 4, z + 72)
    joint = np.maximum(ellipsoid((folded[0], y, z * 0), (20, -24, 0), (8, 9, 100)) + 2 - 2 * level, z + 72)
    spinous = np.maximum(np.hypot(x, (1 - level) * 5) - 3, np.maximum(np.abs(y + 52) - 11, z + 85))
    _bone(canvas, np.minimum(np.minimum(body, spinous), np.minimum(ring, joint)), person, block)
    canal = tube(points, [((0, -24, -60), 11), ((0, -31, -80), 8.5), ((0, -31, -150), 8)])
    canvas.paint(canal, person.tissues["csf"], block)


def _paint_ears(canvas: Canvas, skin: Array, person: Person, textures: Textures) -> None:
    tissues = person.tissues
    block = canvas.block((-95, -55, -95), (95, 25, -25))
    points = canvas.at(block)
    folded = mirrored(points)
    side = person.asymmetry_mm * np.tanh(points[0] / 8)
    mastoid = np.maximum(ellipsoid(folded, (53, -23, -62), (12, 15, 19)), skin[block] + 3)
    _bone(canvas, mastoid, person, block)
    petrous = np.maximum(_petrous(folded), skin[block] + 3)
    canvas.paint(petrous, tissues["petrous"], block)
    cells = np.maximum(join(mastoid + 3, petrous + 7, 6) - 0.7 * side, 1.4 - 4 * np.abs(textures.cells[block]))
    canvas.paint(np.maximum(cells, 42 - folded[0]), tissues["air"], block)
    canal = tube(folded, [((84, -13, -54), 4.5), ((66, -10, -53), 3.2), ((46, -9, -51), 3.4)])
    canal = np.minimum(canal, ellipsoid(folded, (44, -9, -49), (3.5, 5, 6)))
    canvas.paint(np.maximum(canal, skin[block]), tissues["air"], block)

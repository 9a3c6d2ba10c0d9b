"""The brain of the demo head: folded cortex, white matter, deep grey matter, ventricles, cerebellum and brain stem.

Folds are sheets of CSF that run in from the surface: the zero set of a sum of plane waves that depend on the direction
from the middle of a hemisphere only, so that every sheet is radial and neighbours stay one gyrus apart.
"""

import numpy as np

from monai_synth.data.phantom_anatomy import Person, Textures, mirrored
from monai_synth.data.phantom_canvas import Array, Canvas, Points, cut, ellipsoid, join, tube

_CORTEX_MM = 3.0
_FOLD_DEPTH_MM = 13.0
# Folds are laid out on a ball of this radius inside each hemisphere.
_FOLD_BALL_MM = 52.0
_FOLD_CORE_MM = 32.0


def draw_brain(canvas: Canvas, cavity: Array, *, person: Person, textures: Textures) -> None:
    """Paint the brain into a skull that is full of CSF.

    Args:
        canvas: what to paint on.
        cavity: distance to the inside of the skull, ``(X, Y, Z)`` in mm, negative inside.
        person: sizes and tissue values.
        textures: random fields on the grid of the canvas.
    """
    block = canvas.block((-72, -90, -75), (72, 90, 72))
    points = canvas.at(block)
    folded = mirrored(points)
    tissues = person.tissues
    inside = cavity[block]
    x, y, z = points

    # the tentorium parts the cerebrum from the cerebellum below and behind the petrous bone
    roof = _tentorium(folded)
    below = np.maximum(z - roof, y - (17 - 0.78 * folded[0]))
    cerebrum = np.maximum(inside + person.rim_mm + 0.4 * textures.coarse[block], 1.6 - below)
    cerebrum = cut(cerebrum, ellipsoid(points, (0, 10, -34), (13, 17, 10)), 4)
    surface = np.minimum(_depth_to_fissure(points, folded, person), -cerebrum)
    pia = _depth_to_fold(points, surface, person, textures.medium[block])
    canvas.paint(-pia, tissues["grey"], block)
    canvas.paint(_CORTEX_MM - pia, tissues["white"], block)
    sinus = np.maximum(np.abs(x) - 3.2, np.maximum(np.abs(inside + 2) - 2.5, 15 - z - 0.6 * np.abs(y)))
    canvas.paint(sinus, tissues["dura"], block)
    falx = np.maximum(np.abs(x) - 0.7, np.maximum(-_callosum(points) + 6, inside))
    canvas.paint(np.maximum(falx, roof - z), tissues["dura"], block)

    _paint_cerebellum(canvas, cavity, person, textures)
    _paint_core(canvas, person)


def _callosum(points: Points) -> Array:
    """Distance to the hull of the corpus callosum, the same in every sagittal plane."""
    _, y, z = points
    return ellipsoid((np.zeros_like(y), y, z), (0, 3, 6), (1, 39, 23))


def _tentorium(folded: Points) -> Array:
    """Height of the tentorium: a tent whose sides are steeper in front, down to the ridge of the petrous bone."""
    side, y, _ = folded
    steep = 0.36 + 0.28 * np.clip((y + 45) / 30, 0, 1)
    return np.asarray(-12 - 0.30 * np.clip(-28 - y, 0, None) - steep * side, dtype=np.float32)


def _depth_to_fissure(points: Points, folded: Points, person: Person) -> Array:
    """Distance from the two large fissures: between the hemispheres, and of Sylvius."""
    side, y, z = folded
    middle = np.hypot(side, np.clip(-_callosum(points), 0, None)) - 0.9 - 0.4 * person.rim_mm
    tilt = -10 + 0.4 * (4 - y)
    lips = np.hypot(np.hypot(z - tilt, np.clip(38 - side, 0, None)), np.clip(np.abs(y - 4) - 27, 0, None))
    bent = side - 40 + np.float32(0.012) * (y - 6) ** 2 + np.float32(0.02) * (z - tilt) ** 2
    insula = np.hypot(bent, np.clip(np.hypot((z - tilt - 2) * 1.6, y - 6) - 18, 0, None))
    return np.minimum(middle, np.minimum(lips, insula) - 0.3 - person.sulcus_mm)


def _depth_to_fold(points: Points, surface: Array, person: Person, texture: Array) -> Array:
    """Distance to the folded surface of the brain, positive in the brain, given the distance to its hull."""
    near = (surface > -2) & (surface < _FOLD_DEPTH_MM + 2 * _CORTEX_MM)
    x, y, z = (p[near] for p in points)
    depth = surface[near]
    right = x > 0
    ball = np.stack([np.abs(x) - 22, y * np.float32(0.78), z + 4], axis=-1) + 2.5 * texture[near][:, None]
    radius = np.maximum(np.linalg.norm(ball, axis=-1, keepdims=True), 5)
    # the small share of the true position bends the sheets
    position = ball / radius * np.float32(_FOLD_BALL_MM) + 0.25 * ball
    waves = person.fold_directions * np.float32(np.pi / person.gyrus_mm)
    phases = position @ waves.T + np.where(right[:, None], person.fold_phases[:, 0], person.fold_phases[:, 1])
    value = np.cos(phases).sum(axis=-1)
    slope = np.linalg.norm(np.sin(phases) @ waves, axis=-1)
    typical = np.sqrt(len(waves) / 6) * np.pi / person.gyrus_mm
    sheet = np.abs(value) / np.sqrt(slope**2 + (0.5 * typical) ** 2)
    end = _FOLD_DEPTH_MM + 3 * texture[near]
    # sheets would meet in the middle of the hemisphere, so they end before
    core = np.clip(np.float32(_FOLD_CORE_MM) - radius[:, 0], 0, None)
    half_width = person.sulcus_mm * np.clip(1.4 - depth / end, 0.3, None)
    fold = np.hypot(sheet, np.clip(depth - end, 0, None) + core) - half_width
    folded = surface.copy()
    folded[near] = np.minimum(depth, fold)
    return folded


def _paint_cerebellum(canvas: Canvas, cavity: Array, person: Person, textures: Textures) -> None:
    block = canvas.block((-52, -88, -75), (52, 12, -8))
    points = canvas.at(block)
    folded = mirrored(points)
    side, y, z = folded
    tissues = person.tissues
    roof = _tentorium(folded)
    tent = np.maximum(np.abs(z - roof) - 0.8, np.maximum(y - (10 - 0.78 * side), cavity[block]))
    canvas.paint(np.maximum(tent, 18 + y - 0.5 * side), tissues["dura"], block)
    hull = join(ellipsoid(folded, (24, -46, -47), (28, 32, 24)), ellipsoid(points, (0, -48, -46), (14, 26, 24)), 6)
    hull = join(hull, ellipsoid(folded, (30, -27, -48), (19, 21, 19)), 6)
    hull = join(hull, ellipsoid(folded, (13, -31, -33), (16, 20, 19)), 6)
    hull = np.maximum(hull, np.maximum(cavity[block] + 1.5, z - roof + 2.0))
    # in sagittal planes the leaves fan out from the fourth ventricle
    leaf = np.cos((np.arctan2(z + 40, -30 - y) * 22 + 1.5 * textures.medium[block]) * np.float32(2 * np.pi / 8.5))
    canvas.paint(hull, tissues["grey"], block)
    core = join(ellipsoid(folded, (18, -44, -44), (19, 21, 12)), ellipsoid(points, (0, -44, -42), (8, 16, 10)), 5)
    canvas.paint(np.maximum(core - 2 + 4.5 * leaf, hull + 2.2), tissues["white"], block)


def _paint_core(canvas: Canvas, person: Person) -> None:
    """Corpus callosum, deep grey matter, brain stem and, over all, the ventricles."""
    tissues = person.tissues
    block = canvas.block((-45, -75, -150), (45, 55, 35))
    points = canvas.at(block)
    folded = mirrored(points)
    callosum = np.maximum(np.abs(_callosum(points) + 3.2) - 3.0, np.maximum(folded[0] - 14, -6 - points[2]))
    canvas.paint(callosum, tissues["white"], block)
    thalamus = ellipsoid(folded, (11, -5, 0), (8, 15, 9))
    caudate = tube(folded, [((13, 30, 0), 6), ((16, 14, 14), 4.5), ((20, -14, 15), 2)])
    putamen = ellipsoid((folded[0] + 0.25 * (points[1] - 8), points[1], points[2]), (26, 7, -2), (5.5, 18, 11))
    canvas.paint(np.minimum(np.minimum(thalamus, caudate), putamen), tissues["grey"], block)

    stem = tube(
        points,
        [
            ((0, -6, -12), 13),
            ((0, -6, -26), 13),
            ((0, -8, -38), 15),
            ((0, -22, -62), 7.5),
            ((0, -31, -80), 5.5),
            ((0, -31, -150), 5),
        ],
    )
    canvas.paint(stem, tissues["white"], block)

    wide = person.ventricle_mm
    side = 0.5 * person.asymmetry_mm * np.tanh(points[0] / 6)
    lateral = tube(
        folded,
        [((9, 37, 0), 3.2), ((7, 22, 13), 4.2), ((9, -8, 19), 4.4), ((20, -32, 10), 6.5), ((24, -56, -1), 2.6)],
    )
    horn = tube(folded, [((20, -32, 10), 6), ((30, -22, -14), 3.6), ((32, 4, -28), 2.6)])
    lateral = np.maximum(join(lateral, horn, 3) - wide - side, 0.9 - folded[0])
    third = ellipsoid(points, (0, -3, -4), (2.4, 14, 11)) - 0.5 * wide
    fourth = join(
        ellipsoid(points, (0, -27, -40), (6.5, 6, 9)), tube(points, [((0, -16, -10), 1.2), ((0, -25, -36), 1.5)]), 2
    )
    canvas.paint(np.minimum(np.minimum(lateral, third), fourth - 0.3 * wide), tissues["csf"], block)

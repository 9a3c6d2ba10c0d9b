"""Differences between voxel grids, in words."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_synth.data.grids import Grid, covers_same_box, grid_difference, refuse_other_grids
from monai_synth.errors import GeometryError

OBLIQUE = np.array([[0.9, 0.2, 0.0, -40.0], [-0.2, 1.8, 0.1, -50.0], [0.0, -0.1, 2.5, 10.0], [0.0, 0.0, 0.0, 1.0]])


def _image(affine: np.ndarray, shape: tuple[int, ...] = (1, 7, 6, 5)) -> MetaTensor:
    return MetaTensor(torch.zeros(shape), affine=torch.as_tensor(affine))


def _flipped(axis: int, size: int) -> np.ndarray:
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, size - 1
    return OBLIQUE @ flip


def test_equal_grids_pass_up_to_rounding() -> None:
    refuse_other_grids({"mr": _image(OBLIQUE), "ct": _image(OBLIQUE + 1e-4)}, case="p1")


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (_flipped(0, 7), "flipped along axis x"),
        (OBLIQUE + np.outer([0, 0, 1, 0], [0, 0, 0, 12.0]), "shifted by 12.0 mm"),
        (OBLIQUE * np.array([1, 1, 1.2, 1]), "spacing is"),
    ],
)
def test_other_grids_are_refused_in_words(affine: np.ndarray, words: str) -> None:
    with pytest.raises(GeometryError, match=rf"Case 'p1': 'ct' is not on the grid of 'mr'.*{words}"):
        refuse_other_grids({"mr": _image(OBLIQUE), "ct": _image(affine)}, case="p1")


def test_images_that_do_not_know_where_they_are_are_passed_over() -> None:
    refuse_other_grids(
        {"mr": _image(OBLIQUE), "plain": torch.zeros(1, 3, 3, 3), "picture": torch.zeros(1, 3, 3)}, case="p1"
    )
    refuse_other_grids({}, case="p1")


def test_a_flip_covers_the_same_box_but_is_a_difference() -> None:
    reference, other = Grid((7, 6, 5), OBLIQUE), Grid((7, 6, 5), _flipped(0, 7))
    assert covers_same_box(reference, other)
    assert grid_difference(reference, other, "mr") == ["flipped along axis x"]

import numpy as np
import pytest

from monai_synth.reports.views import (
    EDGES,
    View,
    centre_view,
    crop_box,
    cut_axis,
    lay_out,
    pixel_mm,
    position_mm,
    worst_view,
)
from monai_synth.reports.volumes import Volume

ALL = (slice(None), slice(None), slice(None))


def test_centre_goes_through_the_mask_even_where_it_has_a_hole():
    mask = np.zeros((6, 6, 9), dtype=bool)
    mask[2:4, 2:4, 1:3] = mask[2:4, 2:4, 6:8] = True
    assert centre_view(mask).index in (2, 6)
    assert centre_view(np.zeros((6, 6, 9), dtype=bool)).index == 4


@pytest.mark.parametrize(("shape", "plane"), [((1, 8, 9), "sagittal"), ((8, 1, 9), "coronal"), ((8, 9, 1), "axial")])
def test_a_singleton_axis_is_the_one_that_is_cut(shape, plane):
    mask = np.ones(shape, dtype=bool)
    assert centre_view(mask).plane == plane
    assert worst_view(np.ones(shape, dtype=np.float32), mask) is None
    assert lay_out(mask, centre_view(mask), ALL).size == mask.size
    assert cut_axis((8, 9, 10)) == 2


def test_worst_slice_ignores_a_few_voxels_at_the_end():
    mask = np.zeros((10, 10, 6), dtype=bool)
    mask[:, :, 1:5] = True
    mask[0, 0, 5] = True
    error = np.full(mask.shape, 10.0, dtype=np.float32)
    error[:, :, 3], error[:, :, 5], error[:, :, 0] = -40.0, 900.0, 5000.0
    error[0, 0, 3] = np.nan
    assert worst_view(error, mask).index == 3
    assert worst_view(error, np.zeros_like(mask)) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_letters_at_the_edges_tell_the_truth(axis):
    ends = {"R": (0, -1), "L": (0, 0), "A": (1, -1), "P": (1, 0), "S": (2, -1), "I": (2, 0)}
    left, right, top, bottom = EDGES[axis]
    for letter, edge in ((left, np.s_[:, 0]), (right, np.s_[:, -1]), (top, np.s_[0]), (bottom, np.s_[-1])):
        volume = np.zeros((4, 5, 6))
        which, end = ends[letter]
        np.moveaxis(volume, which, 0)[end] = 1
        assert lay_out(volume, View(axis, 2, ""), ALL)[edge].all()


def test_pixels_positions_and_box_are_in_mm():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[2, 3] = -10
    volume = Volume(np.zeros((20, 20, 20), np.float32), affine, False, 1)
    assert pixel_mm(volume, View(2, 0, "")) == (3.0, 2.0)
    assert pixel_mm(volume, View(0, 0, "")) == (4.0, 3.0)
    assert position_mm(volume, View(2, 5, "")) == pytest.approx(10.0)
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[9:11, 9:11, 9:11] = True
    assert crop_box(mask, volume.spacing_mm) == (slice(1, 19), slice(4, 16), slice(5, 15))
    assert crop_box(np.zeros_like(mask), volume.spacing_mm) == ALL

from __future__ import annotations

import numpy as np
import pytest

from monai_synth.data.phantom_canvas import Canvas, Tissue, cut, ellipsoid, join, smooth_field, tube


def grid(size: int, spacing_mm: float):
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(spacing_mm)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def canvas(size: int = 41, spacing_mm: float = 1.0) -> Canvas:
    index_from_point = np.diag([1 / spacing_mm] * 3 + [1.0])
    index_from_point[:3, 3] = (size - 1) / 2
    return Canvas(
        points=grid(size, spacing_mm), index_from_point=index_from_point, softness_mm=spacing_mm, margin_mm=0.0
    )


def test_distance_to_a_ball_is_exact_and_to_an_ellipsoid_right_at_its_surface():
    points = grid(21, 1.0)
    radius = np.sqrt(sum(p**2 for p in points))
    np.testing.assert_allclose(ellipsoid(points, (0, 0, 0), (6, 6, 6))[radius > 1], (radius - 6)[radius > 1], atol=1e-4)
    tip = tuple(np.array([v], dtype=np.float32) for v in (0.0, 9.2, 0.0))
    assert ellipsoid(tip, (0, 0, 0), (3, 9, 5))[0] == pytest.approx(0.2, abs=0.02)


def test_tube_tapers_between_its_knots():
    points = tuple(np.array(v, dtype=np.float32) for v in ([0, 5, 10], [4, 4, 4], [0, 0, 0]))
    np.testing.assert_allclose(tube(points, [((0, 0, 0), 1), ((10, 0, 0), 3)]), [3, 2, 1], atol=1e-5)
    with pytest.raises(ValueError, match="two knots"):
        tube(points, [((0, 0, 0), 1)])


def test_join_holds_both_shapes_and_cut_removes_the_tool():
    points = grid(31, 1.0)
    left, right = (ellipsoid(points, (x, 0, 0), (6, 6, 6)) for x in (-4, 4))
    both = join(left, right, 3)
    assert (both[(left < 0) | (right < 0)] < 0).all()
    assert (both < 0).sum() > ((left < 0) | (right < 0)).sum()  # the fillet
    rest = cut(left, right, 1e-3)
    np.testing.assert_array_equal(rest < 0, (left < 0) & (right > 0))


def test_painting_keeps_the_volume_and_mixes_at_the_surface():
    drawn = canvas()
    drawn.paint(ellipsoid(drawn.points, (0.3, 0, 0), (12, 12, 12)), Tissue(1000, 500, 3))
    share = (drawn.ct + 1000) / 2000
    assert share.sum() == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)
    assert set(np.unique(drawn.labels)) == {0, 3}
    np.testing.assert_allclose(drawn.mr, 500 * share, atol=0.1)
    assert ((share > 0.2) & (share < 0.8)).any()


def test_a_block_holds_its_box_and_is_cropped_to_the_grid():
    drawn = canvas()
    block = drawn.block((-5, -5, -5), (5, 5, 100))
    x, _, z = drawn.at(block)
    assert -6 <= x.min() <= -5
    assert 5 <= x.max() <= 6
    assert z.max() == drawn.points[2].max()
    assert drawn.at(drawn.block((100, 100, 100), (120, 120, 120)))[0].size == 0


def test_a_field_has_unit_deviation_and_does_not_depend_on_the_grid():
    coarse, fine = (smooth_field(np.random.default_rng(7), (n, n + 4, n - 4), 12) for n in (25, 49))
    assert coarse.shape == (25, 29, 21)
    assert coarse.std() == pytest.approx(1, abs=0.15)
    assert abs(coarse.mean()) < 0.2
    np.testing.assert_allclose(coarse[0, 0, 0], fine[0, 0, 0], rtol=1e-4)
    np.testing.assert_allclose(coarse[::24, ::28, ::20], fine[::48, ::52, ::44], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(coarse[12, 14, 10], fine[24, 26, 22], rtol=1e-4, atol=1e-5)

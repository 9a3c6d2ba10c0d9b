import numpy as np
import pytest

from monai_synth.reports.panels import error_bar, error_panel, grey_bar, grey_panel, label_panel


def test_grey_spans_the_window(decode):
    image = np.repeat(np.array([[-900.0, -500.0, 250.0, 1000.0, 3000.0, np.nan]]), 6, axis=0)
    row = np.asarray(decode(grey_panel(image, window=(-500, 1000), pixel_mm=(1, 1))))[100]
    centres = row[np.linspace(0, row.size, 13).astype(int)[1::2]]
    np.testing.assert_allclose(centres, [0, 0, 128, 255, 255, 0], atol=8)


@pytest.mark.parametrize(("pixel_mm", "ratio"), [((1.0, 1.0), 0.5), ((4.0, 1.0), 2.0), ((1.0, 2.5), 0.2)])
def test_pictures_have_the_shape_of_the_anatomy(decode, pixel_mm, ratio):
    width, height = decode(grey_panel(np.zeros((40, 80)), window=(0, 1), pixel_mm=pixel_mm)).size
    assert height / width == pytest.approx(ratio, rel=0.02)
    assert 224 <= max(width, height) <= 384


def test_zero_error_is_the_middle_of_a_symmetric_scale(decode):
    colours = {}
    for value in (-300.0, -100.0, 0.0, 100.0, 300.0, 5000.0, np.nan):
        uri = error_panel(np.full((8, 8), value), np.ones((8, 8)), limit=300, pixel_mm=(1, 1))
        colours[value] = np.asarray(decode(uri).convert("RGB"))[100, 100].astype(int)
    assert np.ptp(colours[0.0]) <= 2
    assert colours[0.0].min() > 240
    assert colours[100.0][0] > colours[100.0][2]
    assert colours[-100.0][0] < colours[-100.0][2]
    np.testing.assert_array_equal(colours[300.0], colours[5000.0])
    assert list(colours.values())[-1].max() < 30
    bar = np.asarray(decode(error_bar()).convert("RGB"))[0].astype(int)
    assert bar.shape[0] % 2 == 1
    np.testing.assert_array_equal(bar[bar.shape[0] // 2], colours[0.0])
    np.testing.assert_array_equal(bar[-1], colours[300.0])


def test_outside_the_mask_no_error_is_shown(decode):
    mask = np.zeros((8, 8))
    mask[:, :4] = 1
    pixels = np.asarray(decode(error_panel(np.full((8, 8), 900.0), mask, limit=300, pixel_mm=(1, 1))).convert("RGB"))
    assert (pixels[:, -100:] == (214, 217, 221)).all()
    assert (pixels[:, :100] != (214, 217, 221)).any(axis=-1).all()


def test_label_maps_keep_their_ids_apart(decode):
    labels = np.kron(np.arange(4).reshape(2, 2), np.ones((5, 5)))
    pixels = np.asarray(decode(label_panel(labels, pixel_mm=(1, 1))).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 4


def test_grey_bar_rises(decode):
    assert (np.diff(np.asarray(decode(grey_bar()))[0].astype(int)) == 1).all()

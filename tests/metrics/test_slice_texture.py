"""Texture slice by slice."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.metrics import SliceTextureDistance, TextureDistance
from tests.metrics.test_distribution import REFERENCE, make_image


def stack(seeds, axis=3):
    """A volume of which every slice is an image of its own."""
    return torch.as_tensor(np.stack([make_image(seed) for seed in seeds], axis=axis))


def item(pred, case="C1", **other):
    return {"pred": pred, "patient_id": "P1", "case_id": case, **other}


def value_of(metric, items):
    metric.reset()
    metric.update(items)
    return metric.compute()


def test_one_volume_has_the_distance_of_its_slices():
    seeds = range(100, 112)
    images = [item(torch.as_tensor(make_image(seed)), case=f"C{seed}") for seed in seeds]
    expected = value_of(TextureDistance(REFERENCE), images)
    metric = SliceTextureDistance(REFERENCE, mask_key=None)
    assert value_of(metric, [item(stack(seeds))]) == pytest.approx(expected)
    assert metric.describe()["num_images"] == len(seeds)
    assert metric.summary["n"].tolist() == [1], "slices of one patient are not patients"


def test_the_axial_axis_is_that_of_the_affine():
    seeds = range(100, 112)
    affine = torch.diag(torch.tensor([1.0, 1, 1, 1]))[[0, 2, 1, 3]]  # the second axis runs from feet to head
    volume = MetaTensor(stack(seeds, axis=2), affine=affine)
    metric = SliceTextureDistance(REFERENCE, mask_key=None)
    assert value_of(metric, item(volume)) == pytest.approx(value_of(metric, item(stack(seeds))))


def test_slices_without_foreground_do_not_count():
    volume, mask = stack(range(100, 112)), torch.ones(1, 24, 20, 12)
    mask[..., 9:], mask[..., 8] = 0, 0
    mask[0, 0, :5, 8] = 1  # 5 voxels
    for least, number in ((1, 9), (5, 9), (6, 8)):
        metric = SliceTextureDistance(REFERENCE, min_foreground=least)
        found = value_of(metric, item(volume, mask=mask))
        alone = SliceTextureDistance(REFERENCE, mask_key=None)
        assert metric.describe()["num_images"] == number
        assert found == pytest.approx(value_of(alone, item(volume[..., :number])))


def test_blurred_slices_are_farther_away():
    volume = stack(range(100, 112))
    blurred = torch.as_tensor(gaussian_filter(volume, (0, 1, 1, 0)))
    metric = SliceTextureDistance(REFERENCE, mask_key=None)
    assert value_of(metric, item(blurred)) > value_of(metric, item(volume)) + 0.1


def test_other_methods_see_the_same_slices():
    methods = {"real_images": lambda one: one["target"]}
    metric = SliceTextureDistance(REFERENCE, mask_key=None, extra_methods=methods)
    value_of(metric, item(stack(range(100, 112)), target=stack(range(200, 212))))
    summary = metric.summary.set_index("method")["mean"]
    alone = value_of(SliceTextureDistance(REFERENCE, mask_key=None), item(stack(range(200, 212))))
    assert summary["real_images"] == pytest.approx(alone)


def test_images_and_errors():
    metric = SliceTextureDistance(REFERENCE)
    images = [item(torch.as_tensor(make_image(seed)), case=f"C{seed}") for seed in (1, 2, 3)]
    assert np.isfinite(value_of(metric, images))
    volume = stack(range(100, 103))
    with pytest.raises(ConfigError, match="not 'mask'"):
        metric.update(item(volume))
    with pytest.raises(GeometryError, match=r"'mask' has shape \(1, 24, 20, 2\)"):
        metric.update(item(volume, mask=torch.ones(1, 24, 20, 2)))
    with pytest.raises(ConfigError, match="no slice has min_foreground=1"):
        metric.update(item(volume, mask=torch.zeros(1, 24, 20, 3)))

import numpy as np
import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.metrics.tissue import tissue_mae


def test_by_hand():
    target = np.array([-1000, -201, -200, 0, 249, 250, 1500, -1000])
    prediction = target + np.array([10, -20, 3, 6, 9, 100, -200, 999])
    mask = np.array([1, 1, 1, 1, 1, 1, 1, 0])
    assert tissue_mae(prediction, target, mask=mask) == {
        "mae_air_hu": 15,
        "mae_soft_tissue_hu": 6,
        "mae_bone_hu": 150,
        "num_voxels_air": 2,
        "num_voxels_soft_tissue": 3,
        "num_voxels_bone": 2,
    }


def test_default_bins_count_every_voxel_of_the_mask_once():
    rng = np.random.default_rng(0)
    target = rng.uniform(-1024, 3000, (5, 6, 7))
    mask = rng.uniform(size=target.shape) > 0.5
    scores = tissue_mae(target, target, mask=mask)
    assert sum(value for key, value in scores.items() if key.startswith("num_")) == mask.sum()


def test_classes_come_from_the_target():
    scores = tissue_mae(np.zeros((2, 2)), np.full((2, 2), 800.0))
    assert scores["mae_bone_hu"] == 800
    assert scores["num_voxels_soft_tissue"] == 0


def test_absent_tissue_is_nan():
    scores = tissue_mae(np.zeros(4), np.zeros(4))
    assert np.isnan(scores["mae_bone_hu"])
    assert scores["mae_soft_tissue_hu"] == 0


def test_int16_does_not_overflow():
    target = np.full(3, -30000, np.int16)
    assert tissue_mae(np.full(3, 30000, np.int16), target)["mae_air_hu"] == 60000


def test_own_bins_and_tensors():
    target = torch.tensor([-900.0, 20.0, 60.0])
    scores = tissue_mae(target + 1, target, bins_hu={"lung": (None, -500), "liver": (40, 80)})
    assert scores == {"mae_lung_hu": 1, "mae_liver_hu": 1, "num_voxels_lung": 1, "num_voxels_liver": 1}


@pytest.mark.parametrize("bins", [{"bone": (250, 250)}, {"bone": (300, 250)}, {"hard bone": (250, None)}])
def test_bad_bins_are_named(bins):
    with pytest.raises(ConfigError, match="bone"):
        tissue_mae(np.zeros(1), np.zeros(1), bins_hu=bins)


def test_wrong_shapes_are_named():
    with pytest.raises(GeometryError, match=r"\(2, 3\)"):
        tissue_mae(np.zeros((3, 2)), np.zeros((2, 3)))

"""Cells to background, interior and boundary."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image
from scipy import ndimage

from monai_synth.data import LabelTable
from monai_synth.errors import ConfigError, LabelError
from monai_synth.transforms import InstancesToClassesd, OneHotd, instance_classes, instance_edges


def classes_by_distance(instances: np.ndarray, *, width: int, mode: str) -> np.ndarray:
    """Definition without layers: the boundary is within so many steps along the axes of another cell or background."""
    classes = (instances > 0).astype(np.uint8)
    for cell in np.unique(instances[instances > 0]):
        inside = instances == cell
        if not inside.all():
            near = ndimage.distance_transform_cdt(inside, metric="taxicab") <= width
            classes[inside & near] = 2
    if mode == "thick" and (instances > 0).any():
        outside = instances == 0
        classes[outside & (ndimage.distance_transform_cdt(outside, metric="taxicab") <= width)] = 2
    return classes


def cells(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draw touching and free cells of many forms, some cut by the field of view."""
    rng = np.random.default_rng(seed)
    places = [rng.uniform(0, length, size=12) for length in shape]
    grid = np.indices(shape)
    distance = sum((axis[..., None] - place) ** 2 for axis, place in zip(grid, places, strict=True))
    return np.where(np.sqrt(distance.min(axis=-1)) < 5, distance.argmin(axis=-1) + 1, 0)


@pytest.mark.parametrize("mode", ["inner", "thick"])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("shape", [(33, 28), (14, 17, 12), (1, 20), (1, 15, 16)])
def test_every_layer_is_one_step_thick(shape: tuple[int, ...], width: int, mode: str) -> None:
    for seed in range(3):
        instances = cells(shape, seed)
        found = instance_classes(instances, boundary_width=width, mode=mode)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, classes_by_distance(instances, width=width, mode=mode))


def test_inner_boundary_is_the_edge_within_the_cells() -> None:
    instances = cells((40, 40), 5)
    edges = instance_edges(torch.from_numpy(instances)[None])[0].numpy()

    np.testing.assert_array_equal(instance_classes(instances) == 2, edges & (instances > 0))
    # The outline stays where it was drawn.
    np.testing.assert_array_equal(instance_classes(instances, boundary_width=2) > 0, instances > 0)


def test_touching_cells_are_separated_and_a_cut_is_no_boundary() -> None:
    instances = np.array([[1] * 5 + [2] * 5] * 4)

    assert instance_classes(instances).tolist() == [[1, 1, 1, 1, 2, 2, 1, 1, 1, 1]] * 4


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(np.uint8, 250), (np.uint16, 255), (np.uint16, 65530), (np.int32, 2**24), (np.uint32, 2**31), (np.int64, 2**60)],
)
def test_ids_of_any_size_are_told_apart(dtype: type, offset: int) -> None:
    small = np.array([[[0, 1, 1, 1, 2, 2, 2, 0]]])
    large = np.where(small > 0, small.astype(np.int64) + offset, 0).astype(dtype)

    assert InstancesToClassesd("cells")({"cells": large})["cells"].tolist() == [[[0, 2, 1, 2, 2, 1, 2, 0]]]


def test_images_without_cells_are_background() -> None:
    assert not instance_classes(np.zeros((4, 5), dtype=np.uint16), mode="thick").any()
    assert (instance_classes(np.full((4, 5), 300, dtype=np.uint16), mode="thick") == 1).all()


def test_metadata_stay_and_one_hot_follows() -> None:
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    instances = MetaTensor(torch.tensor([[[7, 7, 7, 0]]], dtype=torch.int32), affine=affine)
    data = {"cells": instances, "other": 1}
    out = InstancesToClassesd("cells")(data)

    assert data["cells"] is instances
    assert out["cells"].dtype == torch.uint8
    assert torch.equal(out["cells"].affine, affine)
    table = LabelTable.from_names(["background", "cell interior", "cell boundary"])
    one_hot = OneHotd("cells", table)(out)["cells"]
    assert one_hot[:, 0].tolist() == [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="boundary_width=0"):
        InstancesToClassesd("cells", boundary_width=0)
    with pytest.raises(ConfigError, match=r"boundary_width=1\.5"):
        instance_classes(np.zeros((2, 2), dtype=int), boundary_width=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mode='outer'"):
        InstancesToClassesd("cells", mode="outer")  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="'cells': The lowest instance id is -1"):
        InstancesToClassesd("cells")({"cells": torch.tensor([[[-1, 0]]])})
    with pytest.raises(LabelError, match="one channel"):
        InstancesToClassesd("cells")({"cells": torch.zeros(3, 4, 4)})
    with pytest.raises(LabelError, match="'cells': 1 of 2 values are not whole"):
        InstancesToClassesd("cells")({"cells": torch.tensor([[[0.5, 0]]])})
    with pytest.raises(KeyError):
        InstancesToClassesd("cells")({})
    assert InstancesToClassesd("cells", allow_missing_keys=True)({}) == {}


def test_sixteen_bit_pictures_are_read_as_they_are(tmp_path: Path) -> None:
    ids = np.zeros((6, 9), dtype=np.uint16)  # height 6, width 9
    ids[1:4, 1:4], ids[1:4, 4:8] = 300, 556  # equal modulo 256
    Image.fromarray(ids).save(tmp_path / "cells.png")
    load = LoadImaged("cells", reader="PILReader", dtype=np.int64, ensure_channel_first=True)
    out = Compose([load, InstancesToClassesd("cells")])({"cells": str(tmp_path / "cells.png")})["cells"]

    assert out.shape == (1, 9, 6)
    assert out[0, :, 2].tolist() == [0, 2, 1, 2, 2, 1, 1, 2, 0]


def test_real_cells(shared_dir: Path) -> None:
    files = sorted((shared_dir / "data/F_microscopy/DSB2018/instance_labels").glob("*.png"))[:2]
    load = LoadImaged("cells", reader="PILReader", dtype=np.int64, ensure_channel_first=True)
    for file in files:
        instances = np.asarray(load({"cells": str(file)})["cells"])
        out = InstancesToClassesd("cells")({"cells": instances})["cells"].numpy()
        np.testing.assert_array_equal(out > 0, instances > 0)
        np.testing.assert_array_equal(out[0], classes_by_distance(instances[0], width=1, mode="inner"))
        assert 0 < (out == 2).mean() < (out > 0).mean()

"""A label for the body where only a lesion was drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

from monai_synth.errors import ConfigError, GeometryError, IntensityError, LabelError
from monai_synth.transforms import BodyLabeld, RequireLabeld


def head(shape: tuple[int, ...] = (60, 70)) -> tuple[np.ndarray, np.ndarray]:
    """Draw an ellipse, and three channels that show it over noise: bright, dark within, and nothing but noise."""
    rng = np.random.default_rng(0)
    grid = np.indices(shape)
    inside = (
        sum(((axis - (length - 1) / 2) / (0.35 * length)) ** 2 for axis, length in zip(grid, shape, strict=True)) < 1
    )
    bright, noise = 120.0 * inside, rng.uniform(0, 6, size=shape)
    dark = bright.copy()
    dark[tuple(slice(length // 2 - 4, length // 2 + 4) for length in shape)] = 0
    return inside, np.stack([bright + noise, dark + noise, noise]).astype(np.float32)


@pytest.mark.parametrize("shape", [(60, 70), (40, 44, 42)])
def test_tumour_stays_and_the_body_is_around_it(shape: tuple[int, ...]) -> None:
    inside, image = head(shape)
    labels = np.zeros((1, *shape), dtype=np.float32)
    labels[(0, *(slice(length // 2 - 3, length // 2 + 3) for length in shape))] = 255
    out = BodyLabeld("seg", image_key="image", label=1)({"seg": labels, "image": image})["seg"]

    assert set(out.unique().tolist()) == {0, 1, 255}
    np.testing.assert_array_equal(out == 255, labels == 255)
    assert ((out[0].numpy() > 0) != inside).mean() < 0.01


def test_labels_beyond_the_body_stay() -> None:
    _, image = head()
    labels = torch.zeros(1, 60, 70)
    labels[0, :3, :3] = 255
    out = BodyLabeld("seg", image_key="image", label=1)({"seg": labels, "image": image})["seg"]

    assert torch.equal(out == 255, labels == 255)


@pytest.mark.parametrize("image", [torch.zeros(3, 20, 30), torch.ones(3, 20, 30), torch.eye(30)[None, :20]])
def test_an_image_without_a_body_gets_no_label_unless_it_has_others(image: torch.Tensor) -> None:
    add = BodyLabeld("seg", image_key="image", label=1)
    labels = torch.zeros(1, 20, 30)
    assert not add({"seg": labels, "image": image})["seg"].any()
    labels[0, 4, 4] = 255
    with pytest.raises(IntensityError, match="'seg' has labels, but 'image' no body"):
        add({"seg": labels, "image": image})


def test_an_empty_channel_does_not_matter() -> None:
    inside, image = head()
    image[0] = 0
    out = BodyLabeld("seg", image_key="image", label=3)({"seg": torch.zeros(1, 60, 70), "image": image})["seg"]

    assert ((out[0].numpy() == 3) != inside).mean() < 0.01


def test_spacing_of_volumes_counts_and_metadata_stay() -> None:
    inside, image = head((40, 44, 42))
    affine = torch.diag(torch.tensor([0.1, 0.1, 0.1, 1], dtype=torch.float64))
    data = {"seg": MetaTensor(torch.zeros(1, 40, 44, 42), affine=affine), "image": MetaTensor(image, affine=affine)}
    out = BodyLabeld("seg", image_key="image", label=1)(data)["seg"]

    assert torch.equal(out.affine, affine)
    assert ((out[0].numpy() == 1) != inside).mean() < 0.05  # the opening takes the tips of so small a ball
    # A ball of 1.5 mm is no body when 5 mm are opened.
    assert not BodyLabeld("seg", image_key="image", label=1, opening_mm=5.0)(data)["seg"].any()


def test_bad_input_is_refused() -> None:
    _, image = head()
    add = BodyLabeld("seg", image_key="image", label=1)
    with pytest.raises(ConfigError, match="label=0"):
        BodyLabeld("seg", image_key="image", label=0)
    with pytest.raises(ConfigError, match=r"image_key='image'.*\['seg'\]"):
        add({"seg": torch.zeros(1, 60, 70)})
    with pytest.raises(GeometryError, match=r"'seg': shape \(5, 5\), but 'image' has \(60, 70\)"):
        add({"seg": torch.zeros(1, 5, 5), "image": image})
    with pytest.raises(LabelError, match="one channel"):
        add({"seg": torch.zeros(3, 60, 70), "image": image})
    with pytest.raises(KeyError):
        add({"image": image})


def test_a_tumour_with_the_id_of_the_body_does_not_vanish_in_it() -> None:
    _, image = head()
    labels = torch.zeros(1, 60, 70)
    labels[0, 28:32, 33:37] = 1
    with pytest.raises(LabelError, match="'seg' has the id 1 already.*such as 255"):
        BodyLabeld("seg", image_key="image", label=1)({"seg": labels, "image": image})
    assert (BodyLabeld("seg", image_key="image", label=2)({"seg": labels, "image": image})["seg"] == 1).sum() == 16


def test_a_tumour_without_a_head_is_refused() -> None:
    check = RequireLabeld("seg", label=1, name="head")
    for whole in ([[0, 0]], [[0, 1]], [[1, 255]]):
        data = {"seg": torch.tensor([whole])}
        assert check(data)["seg"] is data["seg"]
    with pytest.raises(LabelError, match=r"'seg': the ids 0, 255, but no 1 \(head\)"):
        check({"seg": torch.tensor([[[0, 255]]])})


def test_real_slices_from_neck_to_vertex(shared_dir: Path) -> None:
    folder = shared_dir / "data/D_lgg/lgg-mri-segmentation/kaggle_3m"
    names = [
        "TCGA_CS_4942_19970222_1",
        "TCGA_CS_4942_19970222_10",
        "TCGA_CS_5396_20010302_1",
        "TCGA_CS_4942_19970222_20",
    ]
    prepare = Compose(
        [
            LoadImaged(["seg", "image"], reader="PILReader", ensure_channel_first=True),
            BodyLabeld("seg", image_key="image", label=1, opening_mm=2.0, piece_mm=10.0),
        ]
    )
    for name in names:
        file = next(folder.glob(f"*/{name}.tif"))
        data = prepare({"image": str(file), "seg": str(file.with_name(f"{name}_mask.tif"))})
        brightest = data["image"].max(dim=0).values
        is_head = data["seg"][0] > 0
        assert 0.05 < is_head.float().mean() < 0.75, name
        assert brightest[is_head].mean() > 10 * brightest[~is_head].mean(), name

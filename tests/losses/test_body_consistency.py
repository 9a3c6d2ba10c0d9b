"""Bodies in images and in label maps: a loss that moves the image, image by image."""

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import BodyConsistencyLoss

AIR, TISSUE, LUNG, UNKNOWN = range(4)


def one_hot(classes: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(classes, 4).movedim(-1, 1).float()


def draw_body(*, top: int = 6, is_3d: bool = False) -> Tensor:
    """Classes of one slice or volume: a block of tissue around a lung."""
    classes = torch.full((1, 24, 30), AIR)
    classes[:, top:20, 5:25] = TISSUE
    classes[:, top + 3 : 16, 9:15] = LUNG
    return classes.unsqueeze(-1).repeat(1, 1, 1, 5) if is_3d else classes


def paint(classes: Tensor) -> Tensor:
    """The image of a label map: air and lung dark, tissue bright."""
    return torch.tensor([-1.0, 0.2, -0.9, 0.2])[classes].unsqueeze(1)


@pytest.fixture
def loss() -> BodyConsistencyLoss:
    return BodyConsistencyLoss(threshold=-0.5, temperature=0.05)


@pytest.mark.parametrize("is_3d", [False, True])
@pytest.mark.parametrize("kind", ["l1", "dice"])
def test_the_image_of_the_label_map_has_no_loss_and_another_body_has(kind, is_3d):
    loss = BodyConsistencyLoss(threshold=-0.5, temperature=0.05, kind=kind, smoothing=0.5)
    body, smaller = draw_body(is_3d=is_3d), draw_body(top=9, is_3d=is_3d)
    fitting = loss(paint(body), one_hot(body))
    assert fitting < 0.03
    assert loss(paint(smaller), one_hot(body)) > 2 * fitting
    assert loss(paint(smaller), one_hot(body)) > 0.04


@pytest.mark.parametrize("kind", ["l1", "dice"])
@pytest.mark.parametrize("start", ["noise", "air", "tissue"])
def test_it_moves_a_fake_to_the_body(kind, start):
    body = draw_body()
    torch.manual_seed(0)
    image = {
        "noise": torch.randn(1, 1, 24, 30).mul(0.3),
        "air": torch.full((1, 1, 24, 30), -0.9),
        "tissue": torch.full((1, 1, 24, 30), 0.2),
    }[start].requires_grad_()
    loss = BodyConsistencyLoss(threshold=-0.5, kind=kind, smoothing=0.5)
    optimizer = torch.optim.Adam([image], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss(image, one_hot(body)).backward()
        optimizer.step()
    agreement = ((loss.soft_mask(image.detach())[:, 0] > 0.5) == (body != AIR)).float().mean()
    assert agreement > 0.99


def test_the_published_form_moves_nothing():
    image = paint(draw_body(top=9)).requires_grad_()
    grey = (255 * (image + 1) / (image.max() + 1)).to(torch.uint8)
    assert not grey.requires_grad
    body = one_hot(draw_body())
    BodyConsistencyLoss(threshold=-0.5)(image, body).backward()
    assert image.grad.abs().sum() > 0


def test_air_inside_the_body_is_body_and_gets_no_gradient():
    loss = BodyConsistencyLoss(threshold=-0.5, temperature=0.05, smoothing=0)
    body = draw_body()
    image = paint(body).requires_grad_()
    mask = loss.soft_mask(image)
    assert (mask[:, 0][body == LUNG] > 0.5).all()
    mask.sum().backward()
    assert not image.grad[:, 0][body == LUNG].any()
    assert image.grad[:, 0][body == TISSUE].all()
    # The lung may have a label, or be what is left out of the body's classes: the filled body is compared.
    tissue_only = BodyConsistencyLoss(threshold=-0.5, temperature=0.05, smoothing=0, body_channels=[TISSUE])
    assert tissue_only(image, one_hot(body)) == loss(image, one_hot(body))


@pytest.mark.parametrize("kind", ["l1", "dice"])
def test_images_of_a_batch_do_not_meet(kind):
    loss = BodyConsistencyLoss(threshold=-0.5, temperature=0.05, kind=kind)
    classes = torch.cat([draw_body(), torch.full((1, 24, 30), AIR), draw_body(top=9)])
    images = torch.cat([paint(draw_body(top=8)), paint(draw_body()), torch.randn(1, 1, 24, 30)])
    together = loss(images, one_hot(classes))
    alone = [loss(images[i : i + 1], one_hot(classes[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("kind", ["l1", "dice"])
def test_a_real_ct_fits_its_label_map_and_a_shifted_one_does_not(shared_dir, kind):
    folder = shared_dir / "data" / "B_ct_labels" / "OpenKBP_head_neck" / "pt_100"
    planes = slice(20, -20, 12)
    ct, labels = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj)[..., planes] for name in ("ct", "labels"))

    def to_network(hu):
        return (np.clip(hu, -1000, 2000) - 500) / 1500

    image = torch.from_numpy(to_network(ct)).movedim(-1, 0).unsqueeze(1).float()
    channels = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(int)).movedim(-1, 0)).movedim(-1, 1)
    loss = BodyConsistencyLoss(threshold=to_network(-400), temperature=0.05, kind=kind)
    fitting, shifted = loss(image, channels.float()), loss(image.roll(8, dims=2), channels.float())
    assert fitting < 0.04
    assert shifted > 5 * fitting


def test_a_slice_without_a_body_asks_for_air(loss):
    image = torch.full((1, 1, 24, 30), -0.45, requires_grad=True)
    value = loss(image, one_hot(torch.full((1, 24, 30), AIR)))
    value.backward()
    assert value > 0.7
    assert (image.grad >= 0).all()
    assert image.grad.sum() > 0


def test_voxels_of_unknown_content_are_not_compared():
    loss = BodyConsistencyLoss(threshold=-0.5, temperature=0.05, dont_care=UNKNOWN)
    classes = draw_body()
    classes[:, :, 20:] = UNKNOWN
    labels = one_hot(classes)
    labels[:, :, 18:] = 0
    image = paint(draw_body())
    other = image.clone()
    other[..., 23:] = 0.9  # further away than the smoothing reaches
    other[:, :, 21:] = 0.9
    assert loss(image, labels) == loss(other, labels)
    nothing = one_hot(torch.full((1, 24, 30), UNKNOWN))
    assert loss(image, nothing) == 0


def test_colours_are_averaged_and_precision_is_kept(loss):
    body = draw_body()
    image = paint(body) + 0.1 * torch.randn(1, 1, 24, 30, generator=torch.Generator().manual_seed(0))
    value = loss(image, one_hot(body))
    torch.testing.assert_close(loss(image.expand(-1, 3, -1, -1), one_hot(body)), value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss(image.bfloat16(), one_hot(body))
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, value, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": -1.0},
        {"threshold": -400.0},
        {"temperature": 0.0},
        {"smoothing": -1.0},
        {"kind": "l2"},
        {"axial_axis": 3},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        BodyConsistencyLoss(**{"threshold": -0.5, **options})


def test_labels_that_do_not_fit_are_refused(loss):
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(GeometryError, match=r"\[1, 1, 8, 8\].*\[1, 4, 8, 9\]"):
        loss(image, torch.zeros(1, 4, 8, 9))
    with pytest.raises(GeometryError, match="two classes or more"):
        loss(image, torch.zeros(1, 1, 8, 8))
    for wrong in ({"body_channels": [1, 4]}, {"dont_care": 4}):
        with pytest.raises(ConfigError, match="class 4, but the labels have the classes 0 to 3"):
            BodyConsistencyLoss(threshold=-0.5, **wrong)(image, torch.zeros(1, 4, 8, 8))

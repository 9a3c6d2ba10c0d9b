"""Labels and masks that are none are refused: a soft or broken one would be taken for some class unseen."""

import pytest
import torch
from torch.nn import functional

from monai_synth.errors import GeometryError, LabelError
from monai_synth.losses import SegmentationAdversarialLoss, labelmix_consistency
from monai_synth.losses.labelmix import class_balance_weights, draw_labelmix_mask, mix


def one_hot(*shape: int) -> torch.Tensor:
    labels = torch.randint(3, shape, generator=torch.Generator().manual_seed(0))
    return functional.one_hot(labels, 3).movedim(-1, 1).float()


def spoil(value: float, *, is_negative: bool = False) -> torch.Tensor:
    labels = one_hot(2, 4, 4)
    labels[0, :, 1, 1] = torch.tensor([value, 0.0, -value if is_negative else 0.0])
    return labels


SOFT = functional.interpolate(one_hot(2, 4, 4), scale_factor=2, mode="bilinear")
SEVERAL = one_hot(2, 4, 4).index_fill(1, torch.tensor(1), 1.0)
BROKEN = {
    "NaN": (spoil(torch.nan), "a one-hot map holds 0 and 1, but 1 say nan"),
    "infinite": (spoil(torch.inf), "a one-hot map holds 0 and 1, but 1 say inf"),
    "soft": (SOFT, "holds 0 and 1, but .* say 0.[0-9]+"),
    "negative": (spoil(1.0, is_negative=True), "holds 0 and 1, but 1 say -1"),
    "several": (SEVERAL, "one class or none, but .* say 2"),
    "classes, soft": (torch.full((2, 1, 4, 4), 1.5), "a class is a whole number, but 32 say 1.5"),
    "classes, NaN": (torch.full((2, 1, 4, 4), torch.nan), "a class is a whole number, but 32 say nan"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("use", [draw_labelmix_mask, class_balance_weights])
def test_what_is_no_label_map_is_refused(kind, use):
    labels, message = BROKEN[kind]
    with pytest.raises(LabelError, match=f"no label map: .*{message} or alike. Resample .* nearest"):
        use(labels)


def test_the_loss_refuses_soft_labels():
    labels = spoil(0.5)
    with pytest.raises(LabelError, match="no label map"):
        SegmentationAdversarialLoss()(torch.zeros(2, 4, 4, 4), labels, is_real=True)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
)
def test_label_maps_of_all_types_pass(dtype):
    labels = one_hot(2, 9, 7)
    labels[:, :, 0] = 0  # voxels of no class
    assert torch.equal(class_balance_weights(labels.to(dtype)), class_balance_weights(labels))
    classes = one_hot(2, 9, 7).argmax(1, keepdim=True)
    torch.testing.assert_close(class_balance_weights(classes.to(dtype)), class_balance_weights(one_hot(2, 9, 7)))


@pytest.mark.parametrize("value", [torch.nan, 0.5, 2.0, -1.0])
def test_a_mask_that_says_neither_is_refused(value):
    mask = torch.ones(2, 1, 4, 4)
    mask[0, 0, 0] = value
    images = torch.zeros(2, 3, 4, 4)
    for use in (lambda: mix(images, images, mask), lambda: labelmix_consistency(images, images, images, mask)):
        with pytest.raises(LabelError, match=f"mask holds {value:g} or alike at 4 voxels; .*draw_labelmix_mask"):
            use()


def test_classes_over_processes_are_counted_in_one_hot_labels_only():
    with pytest.raises(GeometryError, match="one-hot labels only"):
        class_balance_weights(torch.zeros(1, 1, 4, 4), across_processes=True)

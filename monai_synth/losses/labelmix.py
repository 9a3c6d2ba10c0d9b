"""Class-wise mixing of real and synthetic images, and the balance of classes, as in OASIS (Sushko et al. 2021).

Shapes: labels are classes ``(B, 1, *spatial)``, numbered like the channels, or one-hot ``(B, num_classes, *spatial)``.
Voxels of a one-hot map that are zero in all channels, and classes below 0, belong to no class.
"""

import torch
import torch.distributed
from torch import Generator, Tensor

from monai_synth.errors import ConfigError, GeometryError, LabelError

__all__ = ["class_balance_weights", "draw_labelmix_mask", "mix"]


def draw_labelmix_mask(
    labels: Tensor, *, draws: Tensor | None = None, generator: Generator | None = None, official_quirk: bool = False
) -> Tensor:
    """Say for each class of the batch, by the toss of a coin, whether the mixed image shows it real or synthetic.

    All images of the batch share the tosses, so borders in the mixed image are borders of classes.

    Args:
        labels: classes ``(B, 1, *spatial)`` or one-hot ``(B, num_classes, *spatial)``.
        draws: ``(num_present,)`` 0 or 1 for each class that is present, in ascending order; ``None`` draws them.
        generator: source of the draws; ``None`` is the default one of the device of ``labels``.
        official_quirk: do as the published code, which writes the draws into the label map itself, one class after the
            other: where class 1 is present, voxels of class 0 that drew 1 then pass for class 1 and take its draw. So
            class 0 is real in a quarter of those masks instead of a half, and never without class 1. For comparison.

    Returns:
        ``(B, 1, *spatial)`` float32: 1 where the image is real, 0 where it is synthetic.

    Raises:
        GeometryError: if the labels have no channel axis.
        LabelError: if they are no classes: soft, not finite, or several at a voxel.
        ConfigError: if the draws do not fit the classes present.
    """
    present, place = torch.unique(_classes(labels), return_inverse=True)
    if draws is None:
        device = present.device if generator is None else generator.device
        draws = torch.randint(2, (len(present),), generator=generator, device=device)
    if draws.shape != present.shape or not bool(((draws == 0) | (draws == 1)).all()):
        raise ConfigError(
            f"draws={draws.tolist()} for the classes {present.tolist()}; give one 0 or 1 for each class that is "
            "present, in ascending order, or None."
        )
    draws = draws.to(present.device, torch.float32)
    if official_quirk and present[:2].tolist() == [0, 1]:
        draws = torch.cat([draws[:1] * draws[1:2], draws[1:]])
    return draws[place]


def mix(real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    """Take ``real`` where the mask is 1 and ``fake`` where it is 0: images, or the logits that are to agree with them.

    Args:
        real: ``(B, C, *spatial)``.
        fake: same shape.
        mask: ``(B, 1, *spatial)`` of :func:`draw_labelmix_mask`.

    Raises:
        GeometryError: if the shapes do not fit.
        LabelError: if the mask holds anything but 0 and 1, such as NaN.
    """
    mask = mask.as_subclass(Tensor)
    if real.shape != fake.shape or mask.shape != (real.shape[0], 1, *real.shape[2:]):
        raise GeometryError(
            f"LabelMix of real {list(real.shape)} and fake {list(fake.shape)} with the mask {list(mask.shape)}: the "
            "images must have one shape, and the mask the same with one channel."
        )
    is_real = mask != 0
    if not bool((mask == is_real).all()):
        wrong = mask[mask != is_real]
        raise LabelError(
            f"The LabelMix mask holds {wrong[0].item():g} or alike at {wrong.numel()} voxels; it says real, 1, or "
            "synthetic, 0, and nothing between. Draw it with draw_labelmix_mask."
        )
    return torch.where(is_real, real, fake)


def class_balance_weights(labels: Tensor, *, dont_care: int | None = None, across_processes: bool = False) -> Tensor:
    """Weight of every voxel that gives each class of the batch the same share in a mean.

    ``num_voxels / (num_present * count)`` for a class with ``count`` of all ``num_voxels`` in the batch: the mean of
    weighted losses over all voxels is the mean over the present classes of the mean inside each of them.

    Args:
        labels: classes ``(B, 1, *spatial)`` or one-hot ``(B, num_classes, *spatial)``.
        dont_care: class that gets no weight and is not counted, such as ``LabelTable.unknown_channel``; always 0 in the
            published code, for data with unknown voxels. Background is a class like any other.
        across_processes: the batch is that of all processes of a distributed training: voxels are counted over all of
            them, which must all call, so that the mean over processes is the loss of one process with the whole batch.
            It needs one-hot labels. (The published code balances the part of each GPU by itself.)

    Returns:
        ``(B, 1, *spatial)`` float32; 0 for voxels that do not count.

    Raises:
        GeometryError: if the labels have no channel axis, or are classes where they must be one-hot.
        LabelError: if they are no classes: soft, not finite, or several at a voxel.
    """
    classes = _classes(labels)
    if labels.shape[1] == 1:
        if across_processes:
            raise GeometryError("Classes are counted over all processes in one-hot labels only. Encode them (OneHotd).")
        present, place, counts = torch.unique(classes, return_inverse=True, return_counts=True)
        is_counted, num_processes = present >= 0, 1
    else:
        present = torch.arange(labels.shape[1] + 1, device=classes.device)
        place = torch.where(classes < 0, labels.shape[1], classes)  # behind the classes
        counts = torch.bincount(place.flatten(), minlength=len(present))
        counts, num_processes = sum_over_processes(counts) if across_processes else (counts, 1)
        is_counted = (counts > 0) & (present < labels.shape[1])
    if dont_care is not None:
        is_counted &= present != dont_care
    # Of the own voxels, as the mean goes over them; the exchange of gradients takes the mean over processes.
    weights = classes.numel() * num_processes / (is_counted.sum() * counts)
    return torch.where(is_counted, weights, 0.0).float()[place]


def sum_over_processes(counts: Tensor) -> tuple[Tensor, int]:
    """Sum of counts over the processes of a distributed training, which must all call, and their number."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return counts, 1
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return total, torch.distributed.get_world_size()


def _classes(labels: Tensor) -> Tensor:
    """Give the class of every voxel ``(B, 1, *spatial)``, -1 for none; refuse what is not one class."""
    if labels.ndim < 3:
        raise GeometryError(
            f"Labels of shape {list(labels.shape)}: give classes (B, 1, *spatial) or one-hot (B, channels, *spatial)."
        )
    labels = labels.detach().as_subclass(Tensor)
    if labels.shape[1] == 1:
        if labels.is_floating_point() and not bool((labels == labels.round()).all()):
            raise _no_label_map(labels[labels != labels.round()], "a class is a whole number")
        return labels.long()
    strongest, classes = labels.max(dim=1, keepdim=True)
    # Nothing is negative and the sum is the strongest: the others are zero. One wait for the device.
    is_one_class = ((strongest == 0) | (strongest == 1)) & (labels.sum(dim=1, keepdim=True) == strongest)
    if not bool(is_one_class.all() & (labels.amin() >= 0)):
        soft = labels[(labels != 0) & (labels != 1)]
        if soft.numel():
            raise _no_label_map(soft, "a one-hot map holds 0 and 1")
        raise _no_label_map(labels.sum(dim=1, keepdim=True)[~is_one_class], "a voxel has one class or none")
    return torch.where(strongest > 0, classes, -1)


def _no_label_map(wrong: Tensor, rule: str) -> LabelError:
    return LabelError(
        f"The labels are no label map: {rule}, but {wrong.numel()} say {wrong[0].item():g} or alike. Resample label "
        "maps with nearest neighbour, encode them (OneHotd) last, and check them with CheckLabelsd."
    )

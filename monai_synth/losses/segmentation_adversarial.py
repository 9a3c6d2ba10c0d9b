"""The adversarial losses of OASIS (Schönfeld, Sushko et al. 2021): a discriminator that segments real and fake images.

Shapes: logits ``(B, num_classes + 1, *spatial)``, channel 0 for "fake" and channel ``c + 1`` for class ``c``; labels
one-hot ``(B, num_classes, *spatial)``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import GeometryError
from monai_synth.losses.labelmix import class_balance_weights, mix, sum_over_processes

__all__ = ["SegmentationAdversarialLoss", "labelmix_consistency"]


class SegmentationAdversarialLoss(nn.Module):
    """Cross entropy over the classes of the label map and "fake".

    A real image should show its labels, a fake one should be "fake" everywhere; in the generator's turn the fakes
    should pass for real. Real terms give each class of the batch the same share; the fake term is a plain mean.

    The batch is that of all processes of a distributed training, whose voxels are counted together: two processes with
    half of the images each train as one with all. (The published code balances the images of each GPU by themselves, so
    that a class which only one of them has weighs otherwise.) With accumulated gradients each batch is balanced by
    itself, as the labels of the next are not known yet: give the largest batch that fits.

    Args:
        dont_care: class that teaches nothing, such as ``LabelTable.unknown_channel``; ``None`` where all are known.
            The published code takes class 0 for data with unknown voxels. Background is a class like any other.
        balance: give each class of the batch the same share; ``False`` gives it to each voxel. The published code
            forgets ``dont_care`` without balance; ``dont_care=None`` does the same.
    """

    def __init__(self, *, dont_care: int | None = None, balance: bool = True):
        super().__init__()
        self.dont_care = dont_care
        self.balance = balance

    def forward(self, predictions: Tensor | list[list[Tensor]], labels: Tensor, *, is_real: bool) -> Tensor:
        """Loss of logits that should show the labels, or "fake".

        Args:
            predictions: what a segmenting discriminator returns (one scale, logits last), or its logits.
            labels: ``(B, num_classes, *spatial)``; voxels that are zero in all channels teach nothing.
            is_real: what the logits should say. In the generator's turn the fakes should pass for real: ``True``.

        Returns:
            Scalar, in float32 also under autocast; 0 where no voxel counts.

        Raises:
            GeometryError: if logits and labels do not fit.
        """
        logits = logits_of(predictions).float()
        if labels.shape != (logits.shape[0], logits.shape[1] - 1, *logits.shape[2:]):
            raise GeometryError(
                f"The logits have shape {list(logits.shape)} and the labels {list(labels.shape)}: the logits must have "
                "one channel more, for 'fake', and the same size. Build the discriminator with num_classes of the "
                "label table, and give one-hot labels."
            )
        if not is_real:
            return functional.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long))
        weights = class_balance_weights(labels, dont_care=self.dont_care, across_processes=self.balance)[:, 0]
        if not self.balance:
            counts = weights > 0
            num_counted, num_processes = sum_over_processes(counts.sum())
            weights = counts * (counts.numel() * num_processes / num_counted.clamp_min(1))
        per_voxel = functional.cross_entropy(logits, labels.argmax(dim=1) + 1, reduction="none")
        return (per_voxel * weights).mean()


def labelmix_consistency(real: Tensor, fake: Tensor, mixed: Tensor, mask: Tensor) -> Tensor:
    """How far the logits of a mixed image are from the same mixture of logits.

    The mean squared error over all channels. All three get a gradient, as published.

    Args:
        real: logits of the real images ``(B, C, *spatial)``.
        fake: logits of the fake ones.
        mixed: logits of the mixed ones, see :func:`monai_synth.losses.labelmix.mix`.
        mask: ``(B, 1, *spatial)``, 1 where the mixed image is real.

    Returns:
        Scalar, in float32 also under autocast.

    Raises:
        GeometryError: if the shapes do not fit.
    """
    return functional.mse_loss(mixed.float(), mix(real.float(), fake.float(), mask))


def logits_of(predictions: Tensor | list[list[Tensor]]) -> Tensor:
    """The logits in what a segmenting discriminator returns: one scale, its last layer."""
    return predictions if isinstance(predictions, Tensor) else predictions[-1][-1]

"""Does the synthetic body end where the label map says that it ends? A loss with a gradient, image by image.

Takes the place of the mask loss of Medical-Images-Synthesis (TWWinde 2024), which passes images through 8 bits and
numpy, so that no gradient is left, and whose morphology runs across the batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from scipy.ndimage import binary_fill_holes
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["BodyConsistencyLoss", "fill_holes"]

KINDS = ("l1", "dice")


class BodyConsistencyLoss(nn.Module):
    """Compare a soft body mask of an image with the body in its label map.

    The soft mask is ``sigmoid((image - threshold) / temperature)`` of the smoothed image. Holes are filled in both
    masks, as lungs and bowel gas are inside the body: what air encloses in the image passes for body and gets no
    gradient. Every image is compared by itself; the batch is averaged.

    Args:
        threshold: body is brighter than this, in the range of the networks: for CT in HU,
            ``intensity.to_network(-400)``. The published code: 55 of 255 on a range that moves with the batch.
        temperature: softness of the mask, in the same range. A voxel that is several temperatures away from the
            threshold hardly moves.
        smoothing: standard deviation of a Gaussian in voxels before the threshold, so that noise makes no body; 0
            takes the image as it is.
        kind: ``"l1"``, the mean absolute difference: the published scale, and right for slices without a body, too;
            ``"dice"``, one minus the soft Dice coefficient: small bodies count as much as large ones.
        body_channels: classes of the body; ``None`` takes all but class 0, the background.
        dont_care: class whose voxels are not compared, such as ``LabelTable.unknown_channel``; it is no body.
        axial_axis: of volumes: the spatial axis from feet to head, see :func:`fill_holes`.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        *,
        threshold: float,
        temperature: float = 0.1,
        smoothing: float = 1.0,
        kind: str = "l1",
        body_channels: Sequence[int] | None = None,
        dont_care: int | None = None,
        axial_axis: int = 2,
    ):
        super().__init__()
        if not -1 < threshold < 1:
            raise ConfigError(
                f"threshold={threshold}: images are in [-1, 1], so nothing or everything would be body. Convert HU to "
                "the range of the networks first."
            )
        if temperature <= 0 or smoothing < 0:
            raise ConfigError(f"temperature={temperature} must be above 0 and smoothing={smoothing} 0 or more.")
        if axial_axis not in (0, 1, 2):
            raise ConfigError(f"axial_axis={axial_axis}: choose one of the three spatial axes, 0, 1 or 2.")
        if kind not in KINDS:
            raise ConfigError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}.")
        self.threshold = threshold
        self.temperature = temperature
        self.smoothing = smoothing
        self.kind = kind
        self.body_channels = None if body_channels is None else list(body_channels)
        self.dont_care = dont_care
        self.axial_axis = axial_axis

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """Compare bodies.

        Args:
            image: ``(B, C, *spatial)`` in [-1, 1]; its channels are averaged.
            labels: one-hot ``(B, num_classes, *spatial)``; voxels that are zero in all channels are not compared.

        Returns:
            Scalar, in float32 also under autocast; 0 where nothing is compared.

        Raises:
            GeometryError: if image and labels differ in size.
            ConfigError: if a class is not there.
        """
        if image.shape[:1] + image.shape[2:] != labels.shape[:1] + labels.shape[2:] or labels.shape[1] < 2:
            raise GeometryError(
                f"The image has shape {list(image.shape)} and the labels {list(labels.shape)}: give one-hot labels, "
                "two classes or more, of the same size."
            )
        body, is_compared = self._read_labels(labels)
        mask = self.soft_mask(image)
        axes = list(range(1, mask.ndim))
        if self.kind == "l1":
            difference = ((mask - body).abs() * is_compared).sum(axes)
            return (difference / is_compared.sum(axes).clamp_min(1)).mean()
        mask, body = mask * is_compared, body * is_compared
        # One voxel in both masks, so that two empty ones agree.
        dice = (2 * (mask * body).sum(axes) + 1) / ((mask + body).sum(axes) + 1)
        return (1 - dice).mean()

    def soft_mask(self, image: Tensor) -> Tensor:
        """Body of an image ``(B, C, *spatial)`` as a soft mask ``(B, 1, *spatial)`` in [0, 1], with holes filled."""
        with torch.autocast(image.device.type, enabled=False):
            smooth = image.float().mean(dim=1, keepdim=True)
            if self.smoothing > 0:
                kernel = gaussian_1d(torch.tensor(self.smoothing), truncated=3.0, approx="sampled", normalize=True)
                smooth = separable_filtering(smooth, kernel.to(smooth.device), mode="replicate")
            mask = torch.sigmoid((smooth - self.threshold) / self.temperature)
        is_body = mask.detach() > 0.5
        return torch.where(fill_holes(is_body, axial_axis=self.axial_axis) & ~is_body, 1.0, mask)

    def _read_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The filled body and which voxels are compared, both ``(B, 1, *spatial)``."""
        channels = self.body_channels
        if channels is None:
            channels = [c for c in range(1, labels.shape[1]) if c != self.dont_care]
        asked = channels if self.dont_care is None else [*channels, self.dont_care]
        if wrong := [c for c in asked if not 0 <= c < labels.shape[1]]:
            raise ConfigError(
                f"BodyConsistencyLoss was given class {wrong[0]}, but the labels have the classes 0 to "
                f"{labels.shape[1] - 1}. Check body_channels and dont_care against the label table."
            )
        is_compared = labels.amax(dim=1, keepdim=True) > 0
        if self.dont_care is not None:
            is_compared &= labels[:, self.dont_care : self.dont_care + 1] == 0
        body = fill_holes(labels[:, channels].amax(dim=1, keepdim=True) > 0, axial_axis=self.axial_axis)
        return body.float(), is_compared


def fill_holes(mask: Tensor, *, axial_axis: int = 2) -> Tensor:
    """Add all that the border of the image cannot reach through the background, image by image.

    In volumes also what the border of an axial plane cannot reach: a lung that the patch cuts off above and below.
    Neighbours share a face. Computed on the CPU, one or two milliseconds for a slice.

    Args:
        mask: ``(B, 1, *spatial)``, boolean.
        axial_axis: of the three spatial axes, the one from feet to head.

    Returns:
        The same shape and device, boolean.
    """
    filled = np.stack([binary_fill_holes(image) for image in mask.detach()[:, 0].cpu().numpy()])
    if filled.ndim == 4:
        planes = np.moveaxis(filled, axial_axis + 1, 1)  # a view
        for i, j in np.ndindex(*planes.shape[:2]):
            planes[i, j] = binary_fill_holes(planes[i, j])
    return torch.from_numpy(filled[:, None]).to(mask.device)

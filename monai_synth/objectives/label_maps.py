"""What the methods for label maps share: the labels in a condition, and the noise beside them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.objectives.base import Batch
from monai_synth.objectives.inputs import require

__all__ = ["NoiseSource", "RegionNoise", "run_generator", "take_labels"]

NoiseSource = Callable[[Tensor], Tensor]
"""``condition (B, C, *spatial) -> noise (B, z)`` or ``(B, z, *spatial)``."""


class RegionNoise:
    """One vector ``N(0, 1)`` for every class in every image, the same at all voxels of the class.

    OASIS can draw one region of an image again while the rest stays; a generator that has seen such noise in training
    is used to neighbours with other noise. Voxels of no class get zeros.

    Args:
        channels: width of the noise, ``noise_channels`` of the generator.
        edge_channels: how many of the last channels of the condition are edge maps, not labels.

    Raises:
        ConfigError: if there is no noise to draw.
    """

    def __init__(self, channels: int, *, edge_channels: int = 0) -> None:
        if channels < 1:
            raise ConfigError(f"RegionNoise(channels={channels}): give noise_channels of the generator, 1 or more.")
        self.channels = channels
        self.edge_channels = edge_channels

    def __call__(self, condition: Tensor) -> Tensor:
        """Draw ``(B, channels, *spatial)`` for one-hot labels ``(B, C, *spatial)``."""
        labels = condition[:, : condition.shape[1] - self.edge_channels]
        batch, num_classes = labels.shape[:2]
        vectors = torch.randn(batch, self.channels, num_classes, dtype=labels.dtype, device=labels.device)
        return torch.einsum("bzc,bc...->bz...", vectors, labels)


def take_labels(batch: Batch, *, method: str, num_edges: int = 0) -> Tensor:
    """Labels of ``batch["condition"]``, without the edge maps behind them.

    Raises:
        ConfigError: if the batch has no condition.
        GeometryError: if fewer than two channels are left, which cannot be one-hot.
    """
    condition = require(batch, "condition", method=method)
    num_labels = condition.shape[1] - num_edges
    if num_labels < 2:
        raise GeometryError(
            f"{method} needs one-hot labels, two classes or more, but the condition has shape {list(condition.shape)} "
            f"with {num_edges} channel(s) of edges. Encode the label map with OneHotd."
        )
    return condition[:, :num_labels]


def run_generator(generator: nn.Module, condition: Tensor, draw_noise: NoiseSource | None) -> Tensor:
    """Generate images; without a source of noise the generator draws its own, one vector per image."""
    pred: Tensor = generator(condition) if draw_noise is None else generator(condition, draw_noise(condition))
    return pred

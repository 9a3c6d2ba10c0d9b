"""A history of synthetic images, so that a discriminator does not forget earlier tricks of the generator.

Shrivastava et al. 2017, in the form of CycleGAN (Zhu et al. 2017).
"""

import random
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_synth.errors import CheckpointError, ConfigError, GeometryError

__all__ = ["ImagePool", "RandomSource"]


class RandomSource(Protocol):
    """What the pool draws from: Python's ``random`` module, a ``random.Random``, or anything alike."""

    def uniform(self, a: float, b: float) -> float:
        """Draw a number between ``a`` and ``b``."""
        ...

    def randint(self, a: int, b: int) -> int:
        """Draw a whole number from ``a`` to ``b``, both included."""
        ...


class ImagePool:
    """Keeps synthetic images and gives some of them to the discriminator in place of new ones.

    Until it is full, each new image is kept and given back. Afterwards, with probability one half, the new image takes
    the place of a random older one, which is given back instead.

    In distributed training every process has its own pool; the pool of the main process is the one that is saved.

    Args:
        size: number of images; 0 gives every image back and keeps none, 50 is usual.
        source: of random numbers; ``None`` is Python's ``random``, which ``monai.utils.set_determinism`` seeds and
            :class:`monai_synth.handlers.resume.TrainingCheckpoint` saves.

    Raises:
        ConfigError: if ``size`` is negative.
    """

    def __init__(self, size: int = 50, *, source: RandomSource | None = None) -> None:
        if size < 0:
            raise ConfigError(f"ImagePool(size={size}): a pool holds 0 images (off) or more; 50 is usual.")
        self.size = size
        self.source: RandomSource = random if source is None else source
        self._images: list[Tensor] = []

    def __len__(self) -> int:
        """Number of images in the pool."""
        return len(self._images)

    def query(self, images: Tensor) -> Tensor:
        """Exchange new images for what the discriminator shall see.

        Args:
            images: ``(B, C, *spatial)``.

        Returns:
            As many images, detached, of the type and on the device of ``images``; a single one may have the other shape
            that it had in its time.

        Raises:
            GeometryError: if images of different shapes would have to stand in one batch.
        """
        images = images.detach().as_subclass(Tensor)  # without the metadata of a MetaTensor
        if self.size == 0:
            return images
        chosen = [self._exchange(image) for image in images]
        if len({image.shape for image in chosen}) > 1:
            raise GeometryError(
                f"The image pool holds images of other shapes than the batch {list(images.shape)}: "
                f"{sorted({tuple(image.shape) for image in chosen})}. Train on patches of one size, or with size=0."
            )
        return torch.stack([image.to(images.device, images.dtype) for image in chosen])

    def _exchange(self, image: Tensor) -> Tensor:
        # The draws and their order are the published ones. Copies, or the pool would keep whole batches in memory.
        if len(self._images) < self.size:
            self._images.append(image.clone())
            return image
        if self.source.uniform(0, 1) <= 0.5:
            return image
        slot = self.source.randint(0, self.size - 1)
        earlier, self._images[slot] = self._images[slot], image.clone()
        return earlier

    def state_dict(self) -> dict[str, Any]:
        """Give the images; random states are saved by whoever owns the source."""
        return {"images": list(self._images)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the images of :meth:`state_dict`.

        Raises:
            CheckpointError: if the state is not that of a pool, or holds more images than this pool.
        """
        images = state.get("images")
        if not isinstance(images, list | tuple) or not all(isinstance(image, Tensor) for image in images):
            raise CheckpointError(f"The state of an image pool has 'images', a list of tensors; got {sorted(state)}.")
        if len(images) > self.size:
            raise CheckpointError(
                f"The checkpoint holds a pool of {len(images)} images, this pool takes {self.size}. Resume with the "
                "size that the training began with."
            )
        self._images = [image.detach().clone() for image in images]

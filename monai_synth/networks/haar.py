"""The orthonormal Haar transform: half the size, all of the image, in low- and high-frequency bands.

SWAGAN (Gal et al. 2021) and USIS (Eskandar et al. 2023) generate and judge images as its coefficients. Both directions
are sums and differences of neighbours; nothing is learned or written to a state dict.
"""

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.blocks import is_tracing


class HaarDown(nn.Module):
    """Split an image into its bands; the exact inverse of :class:`HaarUp`.

    Along each axis the low band is ``(a + b) / sqrt(2)`` and the high one ``(a - b) / sqrt(2)`` of neighbours a, b.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Transform an image.

        Args:
            x: ``(B, C, *spatial)`` of even size.

        Returns:
            ``(B, 2**d * C, *spatial / 2)`` for ``d`` spatial axes: all channels of a band, then the next band. In 2D
            the bands are low, high along the first axis, high along the second, high along both; further axes go on
            like this, the first changing fastest.

        Raises:
            GeometryError: if a size is odd.
        """
        if not is_tracing():
            for length in x.shape[2:]:
                if length % 2 != 0:
                    raise GeometryError(
                        f"The image has size {list(x.shape[2:])}, but the Haar transform pairs neighbours: each size "
                        "must be even. Pad the image by one."
                    )
        scale = 2.0 ** (-0.5 * (x.ndim - 2))
        for axis in range(2, x.ndim):
            pair = x.unflatten(axis, [-1, 2]).unbind(axis + 1)
            x = torch.cat([pair[0] + pair[1], pair[0] - pair[1]], dim=1)
        return x * scale


class HaarUp(nn.Module):
    """Put an image together from its bands; the exact inverse of :class:`HaarDown`."""

    def forward(self, x: Tensor) -> Tensor:
        """Transform coefficients back.

        Args:
            x: ``(B, 2**d * C, *spatial)`` in the order of :class:`HaarDown`.

        Returns:
            ``(B, C, *spatial * 2)``.

        Raises:
            ConfigError: if the number of channels is no multiple of the number of bands.
        """
        num_axes = x.ndim - 2
        num_bands = 2**num_axes
        if not is_tracing() and x.shape[1] % num_bands != 0:
            raise ConfigError(
                f"The coefficients have {x.shape[1]} channels, but there are {num_bands} bands in {num_axes}D: give a "
                f"multiple of {num_bands}."
            )
        x = x * 2.0 ** (-0.5 * num_axes)
        for i in range(num_axes):
            axis = x.ndim - 1 - i
            bands = x.chunk(2, dim=1)
            x = torch.stack([bands[0] + bands[1], bands[0] - bands[1]], dim=axis + 1).flatten(axis, axis + 1)
        return x

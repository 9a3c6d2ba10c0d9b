"""Whole volumes from networks that see slices, slices with neighbours, or volumes of a fixed stride.

Shapes: ``(B, C, X, Y, Z)`` in, ``(B, out_channels, X, Y, Z)`` out, any sizes. Slices of one batch share a call, and
padding to the stride is cropped away again.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional

from monai_synth.data.slices import neighbour_indices
from monai_synth.errors import ConfigError, GeometryError

__all__ = ["VolumeInferer"]


class VolumeInferer(Inferer):
    """Apply a network to a whole volume, plane by plane or at once.

    Args:
        axis: spatial axis that the planes are perpendicular to (0, 1 or 2); ``None`` gives the network the input as it
            is, ``(B, C, X, Y, Z)`` for a 3D network or ``(B, C, H, W)`` for a 2D one, padded to its stride.
        num_neighbours: slices on each side that the network sees as further channels, ordered as in
            :class:`monai_synth.data.slices.SliceDataset`.
        batch_size: planes per call of the network.
        padding: ``"replicate"`` repeats the last voxel, also over more than the size; ``"constant"`` pads with
            ``padding_value``; further arguments on the grid, such as noise, are always repeated.
        padding_value: in network range; -1 is the background of both CT and MR. One-hot labels want ``"replicate"``.
        stride: used when neither the network nor its ``.module`` has an attribute ``stride``. An attribute ``min_size``
            is padded up to as well.
    """

    def __init__(
        self,
        *,
        axis: int | None = 2,
        num_neighbours: int = 0,
        batch_size: int = 8,
        padding: Literal["replicate", "constant"] = "replicate",
        padding_value: float = -1.0,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if axis not in (None, 0, 1, 2) or padding not in ("replicate", "constant"):
            raise ConfigError(
                f"VolumeInferer(axis={axis!r}, padding={padding!r}): axis must be 0, 1, 2 or None and padding "
                "'replicate' or 'constant'."
            )
        if batch_size < 1 or stride < 1 or num_neighbours < 0 or (axis is None and num_neighbours):
            raise ConfigError(
                f"VolumeInferer(axis={axis}, batch_size={batch_size}, stride={stride}, "
                f"num_neighbours={num_neighbours}): "
                "batch_size and stride must be at least 1; num_neighbours at least 0, and 0 where axis is None."
            )
        self.axis = axis
        self.num_neighbours = num_neighbours
        self.batch_size = batch_size
        self.padding = padding
        self.padding_value = padding_value
        self.stride = stride

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Run the network.

        Args:
            inputs: ``(B, C, X, Y, Z)``, or ``(B, C, H, W)`` with ``axis=None``.
            network: takes ``(n, C * (2 * num_neighbours + 1), H, W)``, or padded ``inputs`` with ``axis=None``.
                Where it has ``noise_channels`` and no ``noise`` is given, one vector ``N(0, 1)`` is drawn for each
                volume: drawn anew for every slice, neighbouring slices would not fit each other.
            args: passed on. With an axis, a tensor with the dimensions of ``inputs`` is cut into slices with it and a
                tensor ``(B, n)``, such as noise, is repeated for all slices of its volume.
            kwargs: passed on like ``args``.

        Returns:
            ``(B, out_channels, *spatial)`` on the grid of ``inputs``, with its metadata.

        Raises:
            GeometryError: if the input is not a volume although there is an axis, or the network changes the size.
        """
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if self.axis is not None and len(args) == 0 and kwargs.get("noise") is None:
            width = _attribute(network, "noise_channels", 0)
            if width > 0:
                kwargs = {**kwargs, "noise": torch.randn(len(plain), width, dtype=plain.dtype, device=plain.device)}
        stride = _attribute(network, "stride", self.stride)
        if self.axis is None:
            out = self._padded_call(plain, network, stride, args, kwargs)
        else:
            if plain.ndim != 5:
                raise GeometryError(
                    f"VolumeInferer(axis={self.axis}) got an input of shape {tuple(plain.shape)}; it takes "
                    "(B, C, X, Y, Z). For single images use axis=None."
                )
            out = self._by_planes(plain, network, stride, args, kwargs)
        return MetaTensor(out).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else out

    def _by_planes(
        self, volume: Tensor, network: Callable[..., Tensor], stride: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        planes = volume.movedim(self._dim, 1)  # (B, S, C, H, W)
        num_volumes, num_slices = planes.shape[:2]
        out: Tensor | None = None
        for start in range(0, num_volumes * num_slices, self.batch_size):
            position = torch.arange(start, min(start + self.batch_size, num_volumes * num_slices), device=volume.device)
            case, place = position // num_slices, position % num_slices
            around = neighbour_indices(place.cpu().numpy(), num_slices, self.num_neighbours)
            stack = planes[case[:, None], torch.from_numpy(around).to(volume.device)]  # (n, 2k + 1, C, H, W)
            stack = stack.transpose(1, 2).flatten(1, 2)
            result = self._padded_call(
                stack,
                network,
                stride,
                [self._cut(value, volume, case, place) for value in args],
                {name: self._cut(value, volume, case, place) for name, value in kwargs.items()},
            )
            if out is None:
                out = result.new_empty((num_volumes, num_slices, *result.shape[1:]))
            out[case, place] = result
        if out is None:
            raise GeometryError(f"VolumeInferer got an empty input of shape {tuple(volume.shape)}.")
        return out.movedim(1, self._dim)

    def _cut(self, value: Any, volume: Tensor, case: Tensor, place: Tensor) -> Any:
        """Cut an argument of the network as the volume is cut."""
        if not isinstance(value, Tensor):
            return value
        if value.shape[:1] != volume.shape[:1]:
            raise GeometryError(
                f"An argument of the network has the shape {tuple(value.shape)}, but there are {len(volume)} volumes. "
                "Give one entry for each volume."
            )
        value = value.as_tensor() if isinstance(value, MetaTensor) else value
        if value.ndim == 2:
            return value[case.to(value.device)]
        if value.ndim == 5 and value.shape[2:] == volume.shape[2:]:
            return value.movedim(self._dim, 1)[case.to(value.device), place.to(value.device)]
        return value

    @property
    def _dim(self) -> int:
        """Dimension of the slices in a batch of volumes."""
        return 2 + (self.axis or 0)

    def _padded_call(
        self,
        x: Tensor,
        network: Callable[..., Tensor],
        stride: int,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Pad ``x``, and arguments on the same grid, to the stride; call; crop back."""
        size = x.shape[2:]
        smallest = _attribute(network, "min_size", 1)
        missing = [-max(length, smallest) % stride + max(smallest - length, 0) for length in size]
        before = [more // 2 for more in missing]
        after = [more - first for more, first in zip(missing, before, strict=True)]

        def pad(value: Any, *, is_input: bool = False) -> Any:
            if not isinstance(value, Tensor) or value.ndim != x.ndim or value.shape[2:] != size or not any(after):
                return value
            amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
            if self.padding == "constant" and is_input:
                return functional.pad(value, amounts, mode="constant", value=self.padding_value)
            return functional.pad(value, amounts, mode="replicate")

        out = network(
            pad(x, is_input=True),
            *(pad(value) for value in args),
            **{name: pad(value) for name, value in kwargs.items()},
        )
        padded = tuple(length + first + last for length, first, last in zip(size, before, after, strict=True))
        if tuple(out.shape[2:]) != padded:
            raise GeometryError(
                f"The network returned {tuple(out.shape)} for planes of {padded}; input and output must have one size. "
                f"The stride in use is {stride}: give the network an attribute 'stride', or VolumeInferer(stride=...)."
            )
        for dim, (first, length) in enumerate(zip(before, size, strict=True), start=2):
            out = out.narrow(dim, first, length)
        return out


def _attribute(network: Callable[..., Tensor], name: str, default: int) -> int:
    """An integer that a network, or the one inside its wrapper, says of itself."""
    for owner in (network, getattr(network, "module", None)):
        value = getattr(owner, name, None)
        if isinstance(value, int):
            return value
    return default

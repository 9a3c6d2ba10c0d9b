"""Spectral normalisation (Miyato et al. 2018) that steps exactly as the published generators did.

Built on ``torch.nn.utils.parametrize``, with the state-dict names of ``torch.nn.utils.parametrizations.spectral_norm``
(``parametrizations.weight.original``, ``.0._u``, ``.0._v``). Torch's own class updates u before v; the older one that
SPADE and OASIS were trained with updates v before u, so the same file would train on differently.

As every parametrized layer of torch, such a network cannot be pickled or scripted: pass its state dict, or fold it.
"""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

_START_ITERATIONS = 15  # as torch's parametrization: u and v are good before the first training step
_EPS = 1e-12


class SpectralNorm(nn.Module):
    """Divide a weight by its largest singular value, followed by one power iteration per training forward.

    Attributes:
        is_frozen: no iteration even in training (used while activations are computed a second time).
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.is_frozen = False
        self.register_buffer("_u", functional.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0, eps=_EPS))
        self.register_buffer("_v", functional.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0, eps=_EPS))
        self.iterate(weight, _START_ITERATIONS)

    @torch.no_grad()
    def iterate(self, weight: Tensor, num_iterations: int = 1) -> None:
        """Bring u and v nearer to the first singular vectors of ``weight`` ``(out, *)``."""
        is_last = _is_channels_last(weight)
        matrix = _rows(weight, is_last)
        for _ in range(num_iterations):
            v = functional.normalize(torch.mv(matrix.t(), self._u), dim=0, eps=_EPS)
            functional.normalize(torch.mv(matrix, v), dim=0, eps=_EPS, out=self._u)
        if num_iterations > 0:
            self._v.copy_(_from_memory_order(v[None], weight.shape[1:], is_last).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        """Normalise ``weight`` ``(out, *)``, after one power iteration in training."""
        with _without_autocast(weight.device.type):  # half precision would blur the singular value
            if self.training and not self.is_frozen:
                self.iterate(weight)
            # Cloned: a second forward before the backward moves the buffers in place.
            return weight / _sigma(weight, self._u.clone(), self._v.clone())


def _sigma(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    is_last = _is_channels_last(weight)
    columns = _rows(v.reshape(1, *weight.shape[1:]), is_last)[0]
    return torch.dot(u, torch.mv(_rows(weight, is_last), columns))


def _is_channels_last(weight: Tensor) -> bool:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    if weight.ndim not in layouts or weight.is_contiguous():
        return False
    return weight.is_contiguous(memory_format=layouts[weight.ndim])


def _rows(weight: Tensor, is_last: bool) -> Tensor:
    """The matrix ``(out, in * kernel)``, its columns in the order of the memory: for channels-last without a copy."""
    return (weight.movedim(1, -1) if is_last else weight).flatten(1)


def _from_memory_order(rows: Tensor, shape: torch.Size, is_last: bool) -> Tensor:
    """The weight ``(out, *shape)`` of such a matrix."""
    if is_last:
        return rows.reshape(len(rows), *shape[1:], shape[0]).movedim(-1, 1)
    return rows.reshape(len(rows), *shape)


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device_type):  # the meta device, say
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def spectral_norm(layer: nn.Module) -> nn.Module:
    """Give a convolution or linear layer a spectrally normalised weight, in place; returns the layer.

    A transposed convolution is not meant: its first axis holds the inputs.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", SpectralNorm(weight))
    return layer


def has_spectral_norm(layer: nn.Module) -> bool:
    """Whether a layer's weight is spectrally normalised."""
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    return isinstance(layer.get_submodule("parametrizations.weight.0"), SpectralNorm)


def follow_weights(network: nn.Module, num_iterations: int = 1) -> None:
    """Bring the singular vectors of all spectral norms nearer to their weights, which something else has changed.

    An average of weights needs it: averaged vectors, or those of the last weights, would give it another singular value
    than 1.
    """
    for layer in network.modules():
        if has_spectral_norm(layer):
            norm = layer.get_submodule("parametrizations.weight.0")
            assert isinstance(norm, SpectralNorm)
            norm.iterate(layer.get_parameter("parametrizations.weight.original"), num_iterations)


def fold_spectral_norm(network: nn.Module) -> nn.Module:
    """Copy a network with plain, already normalised weights.

    Same outputs in eval mode, faster, and scriptable: ``torch.jit.script`` cannot compute the weight of a parametrized
    layer (tracing and ONNX can). The copy has the state-dict keys of the same network built with
    ``use_spectral_norm=False`` and otherwise equal arguments. It is not meant to be trained.
    """
    twin = copy.deepcopy(network).eval()
    for layer in list(twin.modules()):
        if has_spectral_norm(layer):
            # Not remove_parametrizations: it edits the layer's class, which the copy shares with the original.
            weight = layer.weight.detach().clone()  # type: ignore[operator]
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            layer.register_parameter("weight", nn.Parameter(weight))
    return twin

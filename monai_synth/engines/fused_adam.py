"""Adam in one pass over the weights, whatever the order in which they lie in memory.

Torch's fused Adam walks the memory of weight, gradient and moments side by side. On the CPU it does not look whether
the four have one layout: where a gradient or a moment lies channels-last and its weight does not, it updates each
weight with the gradient of another one and says nothing (torch 2.13; the loop is right). And it copies every gradient
that is not contiguous, without using the copy, which for a channels-last network takes longer than the update.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_synth.errors import ConfigError

__all__ = ["FusedAdam"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)`` for every memory layout.

    The same update as that of the loop over the weights, up to rounding, in about a third of its time. Its state is
    that of ``torch.optim.Adam``: a training that was begun with one is resumed with the other, in the same layout or
    another one. Loss scaling (fp16) happens inside the update.

    Args:
        params: parameters or groups of them, as for ``torch.optim.Adam``.
        **options: of ``torch.optim.Adam``: ``lr``, ``betas``, ``eps``, ``weight_decay``, ``amsgrad``, ``maximize``.

    Raises:
        ConfigError: for an option of ``torch.optim.Adam`` that chooses another way of computing, or, at a step, for a
            parameter that shares memory with itself or has gaps.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        others = {"foreach", "fused", "capturable", "differentiable"} & options.keys()
        if others:
            raise ConfigError(
                f"FusedAdam takes no {', '.join(sorted(others))}: it is always fused. Use torch.optim.Adam for another "
                "way of computing."
            )
        super().__init__(params, fused=True, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from the state of any Adam; what it chose for its way of computing is not taken over."""
        groups = [{**group, "fused": True, "foreach": None} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})

    def _init_group(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *lists: Any) -> bool:
        has_complex: bool = super()._init_group(group, params, grads, *lists)
        moments = lists[:3]  # the third list is empty without amsgrad
        for i, parameter in enumerate(params):
            if grads[i].stride() != parameter.stride():
                parameter.grad = grads[i] = _laid_out_as(parameter, grads[i])
            for key, values in zip(_MOMENTS, moments, strict=True):
                if values and values[i].stride() != parameter.stride():
                    self.state[parameter][key] = values[i] = _laid_out_as(parameter, values[i])
            if not parameter.is_contiguous():
                params[i], grads[i] = _in_memory_order(parameter.detach()), _in_memory_order(grads[i])
                for values in moments:
                    if values:
                        values[i] = _in_memory_order(values[i])
        return has_complex


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter).copy_(value)


def _in_memory_order(value: Tensor) -> Tensor:
    """The same memory as a contiguous tensor."""
    strides = value.stride()
    order = sorted(range(value.ndim), key=lambda dim: (-strides[dim], -value.shape[dim]))
    view = value.permute(order)
    if not view.is_contiguous():
        raise ConfigError(
            f"A parameter of shape {list(value.shape)} has the strides {list(value.stride())}: its values overlap or "
            "have gaps, and FusedAdam cannot walk through them. Make it contiguous, or use torch.optim.Adam."
        )
    return view

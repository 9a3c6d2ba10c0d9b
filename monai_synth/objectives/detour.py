"""One judgement for two players: a discriminator looks at a copy of the image, once for its turn and the generator's.

The graph of the discriminator then begins at the copy. In the generator's turn its losses take a detour: their gradient
with respect to the copy is handed to the image itself, and none is computed for the discriminator's weights.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["losses_on_copy"]


def losses_on_copy(losses: dict[str, Tensor], *, copy: Tensor, image: Tensor) -> dict[str, Tensor]:
    """Give losses of a copy the gradient that they would have as losses of the image.

    The graph from the copy to the losses is kept, for the turn of the discriminator. Scaled losses (mixed precision,
    accumulated batches) come out scaled, as the detour passes on what it is given.

    Args:
        losses: scalars computed from ``copy``.
        copy: ``image.detach().requires_grad_()``.
        image: ``(B, C, *spatial)`` of the generator.

    Returns:
        The same values under the same names.
    """
    values = _Detour.apply(image, (copy, tuple(losses.values())))
    return dict(zip(losses, values, strict=True))


class _Detour(torch.autograd.Function):
    """The losses come inside a tuple, where autograd does not see them: backward alone walks their graph."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, judged: tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        ctx.copy, ctx.losses = judged
        return tuple(loss.detach().clone() for loss in ctx.losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = torch.autograd.grad(ctx.losses, ctx.copy, gradients, retain_graph=True)
        return gradient, None

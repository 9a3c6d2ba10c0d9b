"""Penalties on the gradient of a discriminator with respect to the image: WGAN-GP and R1.

Both need a second derivative, which backward computes like any other. They are for the discriminator's turn alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["GRADIENT_PENALTY_KINDS", "gradient_penalty", "r1_penalty"]

GRADIENT_PENALTY_KINDS = ("mixed", "real", "fake")

Judge = Callable[[Tensor], Tensor | list[list[Tensor]]]


def gradient_penalty(
    discriminator: Judge,
    real: Tensor,
    fake: Tensor,
    *,
    kind: str = "mixed",
    constant: float = 1.0,
    alpha: Tensor | None = None,
) -> Tensor:
    """Keep the norm of the gradient near a constant (WGAN-GP, Gulrajani et al. 2017).

    ``mean over the batch of (||d sum D(x) / dx|| - constant)^2``, not yet multiplied by a lambda (published: 10).

    Args:
        discriminator: a network, or a function of the image that adds the condition. The sum goes over all logits of
            all scales.
        real: what the discriminator takes, ``(B, C, *spatial)``.
        fake: same shape.
        kind: where ``x`` is: at the ``"real"`` images, at the ``"fake"`` ones, or on the lines between them.
        constant: norm that is not penalised.
        alpha: share of the real image in ``"mixed"``, ``(B,)`` or ``(B, 1)`` in [0, 1]; ``None`` draws it uniformly.

    Returns:
        Scalar, computed in float32 also under autocast.

    Raises:
        ConfigError: for an unknown kind.
        GeometryError: if the shapes do not fit.
    """
    if kind not in GRADIENT_PENALTY_KINDS:
        raise ConfigError(f"kind={kind!r} is not known; choose one of {', '.join(GRADIENT_PENALTY_KINDS)}.")
    if real.shape != fake.shape:
        raise GeometryError(f"Real {list(real.shape)} and fake {list(fake.shape)} images must have one shape.")
    if kind == "mixed":
        image = _between(real, fake, alpha)
    else:
        image = real if kind == "real" else fake
    norms = torch.linalg.vector_norm(_gradient(discriminator, image).flatten(1), dim=1)
    return (norms - constant).square().mean()


def r1_penalty(discriminator: Judge, real: Tensor) -> Tensor:
    """Keep the discriminator flat at real images (Mescheder et al. 2018).

    ``mean over the batch of ||d sum D(x) / dx||^2``, not yet multiplied by a weight. StyleGAN2 multiplies by
    ``gamma / 2`` with gamma 10, USIS by 10; where the penalty is computed every n-th iteration only, by n as well.

    Args:
        discriminator: as in :func:`gradient_penalty`.
        real: ``(B, C, *spatial)``.

    Returns:
        Scalar, computed in float32 also under autocast.
    """
    return _gradient(discriminator, real).flatten(1).square().sum(dim=1).mean()


def _between(real: Tensor, fake: Tensor, alpha: Tensor | None) -> Tensor:
    batch = real.shape[0]
    if alpha is None:
        alpha = torch.rand(batch, device=real.device)
    if alpha.numel() != batch:
        raise GeometryError(f"alpha has shape {list(alpha.shape)}; give one share for each of the {batch} images.")
    share = alpha.to(real.device, torch.float32).reshape(batch, *[1] * (real.ndim - 1))
    return share * real.float() + (1 - share) * fake.float()


def _gradient(discriminator: Judge, image: Tensor) -> Tensor:
    """Gradient of the sum of all logits, with a graph to the weights of the discriminator."""
    with torch.enable_grad(), torch.autocast(image.device.type, enabled=False):
        # Never in less than float32; networks in double precision, as in checks, stay so.
        leaf = image.detach().to(torch.promote_types(image.dtype, torch.float32)).requires_grad_()
        judged = discriminator(leaf)
        logits = [judged] if isinstance(judged, Tensor) else [layers[-1] for layers in judged]
        total = torch.stack([scale.float().sum() for scale in logits]).sum()
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
    return gradient

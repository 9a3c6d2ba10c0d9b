"""Divergence of a style from the standard normal distribution (Kingma & Welling 2014), as SPADE's VAE uses it."""

import torch
from torch import Tensor

__all__ = ["kl_to_standard_normal"]


def kl_to_standard_normal(mu: Tensor, logvar: Tensor, *, average: bool = False) -> Tensor:
    """Kullback-Leibler divergence of ``N(mu, exp(logvar))`` from ``N(0, 1)``.

    ``-1/2 sum(1 + logvar - mu^2 - exp(logvar))``, over the vector and, as published, over the images of the batch too:
    with the same lambda it weighs more in larger batches, in which the other losses are means.

    Args:
        mu: ``(B, noise_channels)``.
        logvar: ``(B, noise_channels)``, natural logarithm of the variance.
        average: divide by ``B``, so that the weight does not depend on the batch; not published.

    Returns:
        Scalar in float32 also under autocast; 0 for the standard normal distribution, positive for every other.
    """
    mu, logvar = mu.float(), logvar.float()
    divergence = -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp())
    return divergence / mu.shape[0] if average else divergence

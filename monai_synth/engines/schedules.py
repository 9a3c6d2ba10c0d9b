"""Learning-rate factors by epoch, for ``torch.optim.lr_scheduler.LambdaLR``.

A plain function is used on purpose: PyTorch's ``PolynomialLR`` and ``CosineAnnealingLR`` store their length in the
checkpoint, so a training resumed with more epochs would go on at learning rate 0. ``SequentialLR``, which joins
schedulers for a warm-up, does the same; functions are joined by calling one in the other (:func:`warm_up`).

The published code of pix2pix from 2020 steps its schedulers before the first epoch, so that every value comes one
epoch early. Here epochs count from 0 and the first has the first value, as in CUT and the older code.
"""

import math
from collections.abc import Callable

from monai_synth.errors import ConfigError

Factor = Callable[[int], float]


def linear_decay(max_epochs: int, *, constant_fraction: float = 0.5) -> Callable[[int], float]:
    """Constant, then linearly towards zero: the schedule of pix2pix (Isola et al. 2017, 100 + 100 epochs).

    The factor in epoch ``e`` (from 0) is ``1 - max(0, e + 1 - n) / (m + 1)`` with ``n`` constant and ``m`` decaying
    epochs, so that the last epoch still learns.

    Args:
        max_epochs: ``n + m``.
        constant_fraction: ``n / (n + m)``; 1 never decays.
    """
    if max_epochs < 1 or not 0 <= constant_fraction <= 1:
        raise ConfigError(
            f"linear_decay(max_epochs={max_epochs}, constant_fraction={constant_fraction}): needs at least one epoch "
            "and a fraction between 0 and 1."
        )
    num_constant = round(max_epochs * constant_fraction)
    num_decay = max_epochs - num_constant

    def factor(epoch: int) -> float:
        return max(0.0, 1.0 - max(0, epoch + 1 - num_constant) / (num_decay + 1))

    return factor


def late_linear_decay(max_epochs: int, *, constant_fraction: float = 0.5) -> Factor:
    """Constant, then linearly towards zero, one epoch later and steeper than :func:`linear_decay`: pix2pixHD.

    The factor in epoch ``e`` (from 0) is ``1 - max(0, e - n) / m`` with ``n`` constant and ``m`` decaying epochs: the
    first decaying epoch still has the full rate, the last ``1 / m``. Published: 100 + 100 epochs. (SPADE: 50
    constant ones.)

    Args:
        max_epochs: ``n + m``.
        constant_fraction: ``n / (n + m)``; 1 never decays.

    Raises:
        ConfigError: if there is no epoch, or the fraction is none.
    """
    if max_epochs < 1 or not 0 <= constant_fraction <= 1:
        raise ConfigError(
            f"late_linear_decay(max_epochs={max_epochs}, constant_fraction={constant_fraction}): needs at least one "
            "epoch and a fraction between 0 and 1."
        )
    num_constant = round(max_epochs * constant_fraction)
    num_decay = max(1, max_epochs - num_constant)
    decays = num_constant < max_epochs

    def factor(epoch: int) -> float:
        return max(0.0, 1.0 - max(0, epoch - num_constant) / num_decay) if decays else 1.0

    return factor


def step_decay(step_epochs: int, *, gamma: float = 0.1) -> Factor:
    """Multiply the rate by ``gamma`` after every ``step_epochs`` epochs: ``lr_policy=step`` of pix2pix (50 epochs).

    Raises:
        ConfigError: if there is no epoch in a step, or ``gamma`` would let the rate grow or vanish.
    """
    if step_epochs < 1 or not 0 < gamma <= 1:
        raise ConfigError(
            f"step_decay(step_epochs={step_epochs}, gamma={gamma}): needs at least one epoch in a step and a gamma "
            "above 0 and up to 1."
        )

    def factor(epoch: int) -> float:
        return float(gamma ** (epoch // step_epochs))

    return factor


def cosine_decay(num_epochs: int, *, lowest: float = 0.0) -> Factor:
    """Half a cosine wave from 1 down to ``lowest`` (Loshchilov & Hutter 2017).

    The factor is ``lowest + (1 - lowest) (1 + cos(pi e / num_epochs)) / 2`` in epoch ``e`` (from 0).

    Args:
        num_epochs: after how many epochs the lowest rate is reached. Then it rises again, as ``lr_policy=cosine`` of
            pix2pix does, which gives its constant epochs here and trains on for the decaying ones; with all epochs of
            the training it never rises.
        lowest: share of the rate at the bottom.

    Raises:
        ConfigError: if there is no epoch, or ``lowest`` is no share.
    """
    if num_epochs < 1 or not 0 <= lowest <= 1:
        raise ConfigError(
            f"cosine_decay(num_epochs={num_epochs}, lowest={lowest}): needs at least one epoch and a lowest share "
            "between 0 and 1."
        )

    def factor(epoch: int) -> float:
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * epoch / num_epochs)) / 2

    return factor


def warm_up(factor: Factor, num_steps: int) -> Factor:
    """Let any schedule begin gently: its rate times ``1 / (n + 1), 2 / (n + 1), ...`` in the first ``n`` steps.

    Args:
        factor: a schedule of this file, or ``lambda step: 1.0``.
        num_steps: ``n``, in the steps of the scheduler: epochs, or iterations, see :func:`per_iteration`.

    Raises:
        ConfigError: if ``num_steps`` is negative.
    """
    if num_steps < 0:
        raise ConfigError(f"warm_up(num_steps={num_steps}): choose 0 (none) or more.")

    def warmed(step: int) -> float:
        return factor(step) * min(1.0, (step + 1) / (num_steps + 1))

    return warmed


def per_iteration(factor: Factor, iterations_per_epoch: int) -> Factor:
    """Let a schedule by epochs count iterations, so that a warm-up can be shorter than an epoch.

    The rate of each epoch stays what it is: ``warm_up(per_iteration(linear_decay(200), 500), 1000)`` warms up for two
    epochs of 500 batches and then follows ``linear_decay(200)``. Step the scheduler after every iteration
    (``LrScheduleHandler(..., epoch_level=False)``).

    Args:
        factor: a schedule by epochs.
        iterations_per_epoch: batches in an epoch, ``len(dataloader)``.

    Raises:
        ConfigError: if an epoch has no iteration.
    """
    if iterations_per_epoch < 1:
        raise ConfigError(f"per_iteration(iterations_per_epoch={iterations_per_epoch}): an epoch has 1 or more.")

    def by_iteration(iteration: int) -> float:
        return factor(iteration // iterations_per_epoch)

    return by_iteration

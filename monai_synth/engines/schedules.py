"""Learning-rate factors by epoch, for ``torch.optim.lr_scheduler.LambdaLR``.

A plain function is used on purpose: PyTorch's ``PolynomialLR`` and ``CosineAnnealingLR`` store their length in the
checkpoint, so a training resumed with more epochs would go on at learning rate 0.
"""

from collections.abc import Callable

from monai_synth.errors import ConfigError


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

"""The four classic adversarial losses on the logits of a discriminator.

Sources: vanilla Goodfellow et al. 2014 (non-saturating for the generator; the "nonsaturating" and "logistic" losses of
CUT and StyleGAN2, ``softplus`` of the logits, are the same function), lsgan Mao et al. 2017, hinge Lim & Ye 2017,
wgan Arjovsky et al. 2017. MONAI's PatchAdversarialLoss is not used: its hinge passes the logits through tanh and its
least squares through a LeakyReLU first, and it takes a discriminator's list of feature maps for a list of scales.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError

ADVERSARIAL_KINDS = ("vanilla", "lsgan", "hinge", "wgan")
_REDUCTIONS = ("mean", "sum")


class AdversarialLoss(nn.Module):
    """Compare a discriminator's logits with what they should say.

    Args:
        kind: ``"vanilla"`` (binary cross entropy with logits, elsewhere called nonsaturating), ``"lsgan"`` (least
            squares), ``"hinge"`` or ``"wgan"``.
        scales: ``"mean"`` or ``"sum"`` over the scales of a multi-scale discriminator.

    Raises:
        ConfigError: for an unknown option.
    """

    def __init__(self, kind: str = "vanilla", *, scales: str = "mean"):
        super().__init__()
        if kind not in ADVERSARIAL_KINDS:
            raise ConfigError(f"Adversarial loss {kind!r} is not known; choose one of {', '.join(ADVERSARIAL_KINDS)}.")
        if scales not in _REDUCTIONS:
            raise ConfigError(f"scales={scales!r} is not known; choose one of {', '.join(_REDUCTIONS)}.")
        self.kind = kind
        self.scales = scales

    def forward(
        self, predictions: Tensor | list[list[Tensor]], *, is_real: bool, for_discriminator: bool = True
    ) -> Tensor:
        """Loss of logits that should say "real" or "fake".

        Args:
            predictions: what a discriminator returns (scales x layers, logits last), or logits ``(B, 1, *spatial)``.
            is_real: what the logits should say. In the generator's turn the fakes should pass for real: ``True``.
            for_discriminator: whose turn it is. Only the hinge loss differs: the generator's has no margin.

        Returns:
            Scalar, in float32 also under autocast.

        Raises:
            ConfigError: if the generator is asked to make its fakes look fake.
        """
        if not for_discriminator and not is_real:
            raise ConfigError("In the generator's turn its images should pass for real: use is_real=True.")
        logits = [predictions] if isinstance(predictions, Tensor) else [layers[-1] for layers in predictions]
        per_scale = torch.stack([self._one_scale(x.float(), is_real, for_discriminator) for x in logits])
        return per_scale.mean() if self.scales == "mean" else per_scale.sum()

    def _one_scale(self, logits: Tensor, is_real: bool, for_discriminator: bool) -> Tensor:
        if self.kind == "vanilla":
            return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))
        if self.kind == "lsgan":
            return functional.mse_loss(logits, torch.full_like(logits, float(is_real)))
        signed = -logits if is_real else logits
        if self.kind == "hinge" and for_discriminator:
            return functional.relu(1 + signed).mean()
        return signed.mean()

"""Pix2pix: paired translation with an adversarial and an L1 loss (Isola et al. 2017)."""

import torch
from monai.inferers.inferer import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.pairs import refuse_unpaired
from monai_synth.objectives.players import bare, check_prediction


class Pix2Pix:
    """The published step: one generator forward, then the discriminator, then the generator.

    The order matters: the generator is judged by the discriminator that has just been updated, and fake and real
    images pass the discriminator one after the other, so that its batch norms never mix them.

    Args:
        generator: ``condition (B, C, *spatial) -> image (B, D, *spatial)`` in [-1, 1].
        discriminator: ``(B, C + D, *spatial) -> scales x layers``, logits last.
        adversarial: kind of adversarial loss, see :class:`monai_synth.losses.AdversarialLoss`.
        lambda_l1: weight of the mean absolute error.
        perceptual: further loss ``(prediction, target) -> scalar`` on images in [-1, 1], not part of the publication.
        lambda_perceptual: its weight.
        inferer: how the generator is applied in training; ``None`` calls it.

    Raises:
        ConfigError: for a negative weight or an unknown adversarial loss.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        adversarial: str = "vanilla",
        lambda_l1: float = 100.0,
        perceptual: nn.Module | None = None,
        lambda_perceptual: float = 10.0,
        inferer: Inferer | None = None,
    ):
        for name, value in (("lambda_l1", lambda_l1), ("lambda_perceptual", lambda_perceptual)):
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        self.players: dict[str, nn.Module] = {"discriminator": discriminator, "generator": generator}
        self.adversarial = AdversarialLoss(adversarial)
        self.lambda_l1 = lambda_l1
        self.perceptual = perceptual
        self.lambda_perceptual = lambda_perceptual
        self.inferer = inferer or SimpleInferer()

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Translate ``batch["condition"]`` once."""
        return {"pred": self.inferer(_get(batch, "condition"), self.players["generator"])}

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"discriminator"`` (terms ``d_fake``, ``d_real``) or ``"generator"`` (``g_gan``, ``g_l1`` and,
                with a perceptual loss, ``g_perceptual``).
            batch: ``condition`` ``(B, C, *spatial)`` and its paired ``target`` ``(B, D, *spatial)`` in [-1, 1].
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the batch has no target, or the target of another case, or the player is not known.
            GeometryError: if prediction and target differ in shape.
        """
        refuse_unpaired(batch)
        condition, target, pred = _get(batch, "condition"), _get(batch, "target"), out["pred"]
        check_prediction(pred, target)
        if player == "discriminator":
            return self._discriminator_losses(condition, target, pred.detach())
        if player == "generator":
            return self._generator_losses(condition, target, pred)
        raise ConfigError(f"Pix2Pix has no player {player!r}; its players are {', '.join(self.players)}.")

    def _discriminator_losses(self, condition: Tensor, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator = self.players["discriminator"]
        # Fake first, as published: batch norm's running statistics depend on the order of the two passes.
        on_fake = discriminator(torch.cat([condition, fake], dim=1))
        on_real = discriminator(torch.cat([condition, target], dim=1))
        return {
            "d_fake": 0.5 * self.adversarial(on_fake, is_real=False),
            "d_real": 0.5 * self.adversarial(on_real, is_real=True),
        }

    def _generator_losses(self, condition: Tensor, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator = bare(self.players["discriminator"])
        on_fake = discriminator(torch.cat([condition, fake], dim=1))
        terms = {
            "g_gan": self.adversarial(on_fake, is_real=True, for_discriminator=False),
            "g_l1": self.lambda_l1 * functional.l1_loss(fake.float(), target.float()),
        }
        if self.perceptual is not None:
            terms["g_perceptual"] = self.lambda_perceptual * self.perceptual(fake, target)
        return terms


def _get(batch: Batch, key: str) -> Tensor:
    value = batch.get(key)
    if value is None:
        raise ConfigError(
            f"Pix2Pix needs paired images, but the batch has no {key!r} (it has: {', '.join(batch) or 'nothing'}). "
            f"Give the data a role for {key!r}; without pairs use an objective for unpaired data."
        )
    return value

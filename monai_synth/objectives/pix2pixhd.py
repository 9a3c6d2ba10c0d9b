"""Pix2pixHD: label maps to large images, judged at several scales (Wang et al. 2018)."""

from typing import Any

import torch
from monai.inferers.inferer import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from monai_synth.errors import ConfigError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.feature_matching import FeatureMatchingLoss
from monai_synth.objectives.base import Batch
from monai_synth.objectives.detour import losses_on_copy
from monai_synth.objectives.inputs import require, require_pair
from monai_synth.objectives.players import bare, check_prediction, member


class Pix2PixHD:
    """The published step: all losses from one forward, then the generator, then the discriminator.

    Both are judged with the weights from before the step: the discriminator learns from the image that the generator
    made before its update. Fake and real images pass the discriminator one after the other, each once: what it says of
    the fake serves both turns, where the publication computes it twice. (Under batch norm its running statistics,
    which nothing uses in training, are so averaged over two passes instead of three.)

    Published optimisers: Adam, learning rate 2e-4, betas (0.5, 0.999), with
    :func:`monai_synth.engines.late_linear_decay`.

    Args:
        generator: ``condition (B, C, *spatial) -> image (B, D, *spatial)`` in [-1, 1]; the condition is one-hot labels
            and, where there are instances, their edges.
        discriminator: ``(B, C + D, *spatial) -> scales x layers``, logits last; published: two scales, three for large
            images.
        adversarial: kind of adversarial loss, see :class:`monai_synth.losses.AdversarialLoss`.
        scales: ``"sum"`` (published) or ``"mean"`` over the scales of the adversarial loss.
        lambda_feature: weight of the feature matching; 0 leaves it out.
        perceptual: further loss ``(prediction, target) -> scalar`` on images in [-1, 1]. Published:
            :class:`monai_synth.losses.VGGPerceptualLoss`.
        lambda_perceptual: its weight.
        encoder: ``(image, instances) -> features (B, F, *spatial)``, see
            :class:`monai_synth.networks.FeatureEncoder`. The generator then takes ``C + F`` channels: condition first,
            then the features of the real image (at inference: those that were chosen). The discriminator does not see
            them. Generator and encoder are one player, an ``nn.ModuleDict`` with these two names, trained by one
            optimiser.
        fix_trunk_epochs: train only the last enhancer of a :class:`monai_synth.networks.LocalEnhancer` (and the
            encoder) in the first epochs, as published where the rest comes from an earlier training; see
            :meth:`start_epoch`.
        inferer: how the generator is applied in training; ``None`` calls it.

    Raises:
        ConfigError: for a negative weight, an unknown adversarial loss, or a trunk to be fixed that there is not.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        adversarial: str = "lsgan",
        scales: str = "sum",
        lambda_feature: float = 10.0,
        perceptual: nn.Module | None = None,
        lambda_perceptual: float = 10.0,
        encoder: nn.Module | None = None,
        fix_trunk_epochs: int = 0,
        inferer: Inferer | None = None,
    ):
        for name, value in (("lambda_feature", lambda_feature), ("lambda_perceptual", lambda_perceptual)):
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        if fix_trunk_epochs < 0:
            raise ConfigError(f"fix_trunk_epochs={fix_trunk_epochs} is negative; choose 0 (never) or more.")
        if fix_trunk_epochs and not hasattr(bare(generator), "enhancers"):
            raise ConfigError(
                f"fix_trunk_epochs={fix_trunk_epochs}, but {type(bare(generator)).__name__} has no trunk and no "
                "enhancers. Use a LocalEnhancer, or fix_trunk_epochs=0."
            )
        player = nn.ModuleDict({"generator": generator, "encoder": encoder}) if encoder is not None else generator
        self.players: dict[str, nn.Module] = {"generator": player, "discriminator": discriminator}
        self.adversarial = AdversarialLoss(adversarial, scales=scales)
        self.feature_matching = FeatureMatchingLoss("pix2pixhd")
        self.lambda_feature = lambda_feature
        self.perceptual = perceptual
        self.lambda_perceptual = lambda_perceptual
        self.has_encoder = encoder is not None
        self.fix_trunk_epochs = fix_trunk_epochs
        self.inferer = inferer or SimpleInferer()
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Fix or free the trunk; the trainer calls it at the start of every epoch.

        The optimiser holds all parameters of the player from the beginning. Those that are fixed ask for no gradient,
        so that backward does not compute it and the optimiser passes them over; when they are freed, it starts with
        fresh moments for them and goes on with those of the enhancer. What is fixed depends on the epoch alone: a
        resumed training needs nothing else.

        Args:
            epoch: from 1.

        Raises:
            ConfigError: if DDP waits for the gradients of all parameters.
        """
        self._epoch = epoch
        if self.fix_trunk_epochs == 0:
            return
        generator = member(self.players["generator"], "generator")
        if isinstance(generator, DistributedDataParallel) and not generator.find_unused_parameters:
            raise ConfigError(
                "fix_trunk_epochs leaves parameters without gradient, for which DDP would wait. Wrap the generator "
                "with monai_synth.engines.distribute(network, device, find_unused_parameters=True)."
            )
        network = bare(generator)
        network.requires_grad_(epoch > self.fix_trunk_epochs)
        enhancers = network.get_submodule("enhancers")
        assert isinstance(enhancers, nn.ModuleList)
        enhancers[-1].requires_grad_(True)

    def generate(self, batch: Batch) -> dict[str, Any]:
        """Translate ``batch["condition"]`` once, and let the discriminator judge the result and the target.

        The players whose turns follow must be trainable here, as the trainer has them: the graphs are those of the
        turns.

        Returns:
            ``pred``; ``judged``, the copy of it that the discriminator saw; ``on_fake`` and ``on_real``, scales x
            layers.

        Raises:
            ConfigError: if the batch has no condition or target, they are of different cases, or an encoder has no
                ``instances`` ``(B, 1, *spatial)``.
            GeometryError: if sizes differ.
        """
        condition, target = require_pair(batch, method="Pix2PixHD")
        if self.fix_trunk_epochs and self._epoch == 0:
            raise ConfigError(
                f"fix_trunk_epochs={self.fix_trunk_epochs}, but nobody says which epoch it is. Train with "
                "SynthesisTrainer, or call start_epoch(epoch) at the start of every epoch."
            )
        player, discriminator = self.players["generator"], self.players["discriminator"]
        shown = condition
        if self.has_encoder:
            instances = require(batch, "instances", method="Pix2PixHD with an encoder")
            features = member(player, "encoder")(target, instances)
            shown = torch.cat([condition, features.to(condition.dtype)], dim=1)
        pred = self.inferer(shown, member(player, "generator"))
        check_prediction(pred, target)
        judged = pred.detach().requires_grad_()
        return {
            "pred": pred,
            "judged": judged,
            "on_fake": discriminator(torch.cat([condition, judged], dim=1)),
            "on_real": discriminator(torch.cat([condition, target], dim=1)),
        }

    def losses(self, player: str, batch: Batch, out: Any) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"generator"`` (``g_gan``, ``g_feat`` and, with a perceptual loss, ``g_perceptual``) or
                ``"discriminator"`` (``d_fake`` and ``d_real``, halved as published).
            batch: as for :meth:`generate`.
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the player is not known.
        """
        on_fake, on_real = out["on_fake"], out["on_real"]
        if player == "discriminator":
            return {
                "d_fake": 0.5 * self.adversarial(on_fake, is_real=False),
                "d_real": 0.5 * self.adversarial(on_real, is_real=True),
            }
        if player != "generator":
            raise ConfigError(f"Pix2PixHD has no player {player!r}; its players are {', '.join(self.players)}.")
        terms = {"g_gan": self.adversarial(on_fake, is_real=True, for_discriminator=False)}
        if self.lambda_feature > 0:
            terms["g_feat"] = self.lambda_feature * self.feature_matching(on_fake, on_real)
        terms = losses_on_copy(terms, copy=out["judged"], image=out["pred"])
        if self.perceptual is not None:
            terms["g_perceptual"] = self.lambda_perceptual * self.perceptual(out["pred"], batch["target"])
        return terms

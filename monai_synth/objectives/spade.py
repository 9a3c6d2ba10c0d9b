"""SPADE: label maps to images through their normalisation (Park et al. 2019), with or without a style of choice."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from monai.inferers.inferer import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.feature_matching import FeatureMatchingLoss
from monai_synth.losses.kl import kl_to_standard_normal
from monai_synth.networks.style_encoder import StyleEncoder
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.inputs import require_pair
from monai_synth.objectives.players import bare, check_prediction, member

Scales = list[list[Tensor]]


class Spade:
    """The published step: the generator, then the discriminator on an image that the updated generator makes anew.

    Fake and real images pass the discriminator in one batch, fake first. The second image is made without gradients but
    in train mode: running statistics and power iterations move twice per step, for which the generator was published.
    The discriminator's loss is not halved; the adversarial loss is the mean over the scales.

    Published optimisers ("TTUR"): Adam with betas (0, 0.9), learning rate 1e-4 for the generator and 4e-4 for the
    discriminator (half and twice 2e-4), constant for 50 epochs. They are the optimisers' business alone.

    Args:
        generator: ``condition (B, C, *spatial) -> image (B, D, *spatial)`` in [-1, 1], with an encoder
            ``(condition, noise (B, Z)) -> image``; the condition is one-hot labels and, where there are instances,
            their edges.
        discriminator: ``(B, C + D, *spatial) -> scales x layers``, logits last.
        adversarial: kind of adversarial loss, see :class:`monai_synth.losses.AdversarialLoss`.
        lambda_feature: weight of the feature matching; 0 leaves it out.
        perceptual: further loss ``(prediction, target) -> scalar`` on images in [-1, 1]. Published:
            :class:`monai_synth.losses.VGGPerceptualLoss`.
        lambda_perceptual: its weight.
        encoder: ``image -> (mu, logvar)``, each ``(B, Z)``, see :class:`monai_synth.networks.StyleEncoder`: the VAE.
            The generator starts from a vector drawn from what the encoder says of the real image. Generator and
            encoder are one player, an ``nn.ModuleDict`` with these two names, trained by one optimiser.
        lambda_kld: weight of the divergence of that distribution from the standard normal one.
        average_kld: average the divergence over the batch instead of summing it as published, see
            :func:`monai_synth.losses.kl_to_standard_normal`. Summed, it weighs by the batch of one process, and of one
            of several accumulated ones.
        sample: how a vector is drawn from ``(mu, logvar)``; ``None`` is :meth:`StyleEncoder.sample`.
        inferer: how the generator is applied in training; ``None`` calls it.

    Raises:
        ConfigError: for a negative weight or an unknown adversarial loss.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        adversarial: str = "hinge",
        lambda_feature: float = 10.0,
        perceptual: nn.Module | None = None,
        lambda_perceptual: float = 10.0,
        encoder: nn.Module | None = None,
        lambda_kld: float = 0.05,
        average_kld: bool = False,
        sample: Callable[[Tensor, Tensor], Tensor] | None = None,
        inferer: Inferer | None = None,
    ):
        weights = {"lambda_feature": lambda_feature, "lambda_perceptual": lambda_perceptual, "lambda_kld": lambda_kld}
        for name, value in weights.items():
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        player = nn.ModuleDict({"generator": generator, "encoder": encoder}) if encoder is not None else generator
        self.players: dict[str, nn.Module] = {"generator": player, "discriminator": discriminator}
        self.adversarial = AdversarialLoss(adversarial)
        self.feature_matching = FeatureMatchingLoss("spade")
        self.lambda_feature = lambda_feature
        self.perceptual = perceptual
        self.lambda_perceptual = lambda_perceptual
        self.has_encoder = encoder is not None
        self.lambda_kld = lambda_kld
        self.average_kld = average_kld
        self.sample = sample or StyleEncoder.sample
        self.inferer = inferer or SimpleInferer()

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Turn ``batch["condition"]`` into images, with an encoder in the style of ``batch["target"]``.

        Returns:
            ``pred`` and, with an encoder, ``mu`` and ``logvar``.

        Raises:
            ConfigError: if the batch has no condition or target, or they are of different cases.
            GeometryError: if sizes differ.
        """
        condition, target = require_pair(batch, method="Spade")
        out = self._synthesise(condition, target, is_frozen=False)
        check_prediction(out["pred"], target)
        return out

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"generator"`` (``g_gan``, ``g_feat``, with a perceptual loss ``g_perceptual``, with an encoder
                ``g_kld``) or ``"discriminator"`` (``d_fake``, ``d_real``).
            batch: as for :meth:`generate`.
            out: what :meth:`generate` returned; the discriminator's turn makes an image of its own.

        Raises:
            ConfigError: as :meth:`generate`, or if the player is not known.
        """
        condition, target = require_pair(batch, method="Spade")
        if player == "generator":
            return self._generator_losses(condition, target, out)
        if player != "discriminator":
            raise ConfigError(f"Spade has no player {player!r}; its players are {', '.join(self.players)}.")
        fake = self._synthesise(condition, target, is_frozen=True)["pred"]
        on_fake, on_real = _judge(self.players["discriminator"], condition, fake, target)
        return {
            "d_fake": self.adversarial(on_fake, is_real=False),
            "d_real": self.adversarial(on_real, is_real=True),
        }

    def _generator_losses(self, condition: Tensor, target: Tensor, out: Output) -> dict[str, Tensor]:
        on_fake, on_real = _judge(bare(self.players["discriminator"]), condition, out["pred"], target)
        terms = {"g_gan": self.adversarial(on_fake, is_real=True, for_discriminator=False)}
        if self.lambda_feature > 0:
            terms["g_feat"] = self.lambda_feature * self.feature_matching(on_fake, on_real)
        if self.perceptual is not None:
            terms["g_perceptual"] = self.lambda_perceptual * self.perceptual(out["pred"], target)
        if self.has_encoder:
            divergence = kl_to_standard_normal(out["mu"], out["logvar"], average=self.average_kld)
            terms["g_kld"] = self.lambda_kld * divergence
        return terms

    def _synthesise(self, condition: Tensor, target: Tensor, *, is_frozen: bool) -> dict[str, Tensor]:
        player = self.players["generator"]
        generator = member(player, "generator")
        with torch.no_grad() if is_frozen else nullcontext():
            if not self.has_encoder:
                return {"pred": self.inferer(condition, bare(generator) if is_frozen else generator)}
            encoder = member(player, "encoder")
            mu, logvar = (bare(encoder) if is_frozen else encoder)(target)
            mu, logvar = mu.float(), logvar.float()
            noise = self.sample(mu, logvar)
            pred = self.inferer(condition, bare(generator) if is_frozen else generator, noise)
            return {"pred": pred, "mu": mu, "logvar": logvar}


def _judge(discriminator: nn.Module, condition: Tensor, fake: Tensor, real: Tensor) -> tuple[Scales, Scales]:
    """Both images in one batch, as published: their statistics meet under batch norm."""
    judged = discriminator(torch.cat([torch.cat([condition, fake], dim=1), torch.cat([condition, real], dim=1)]))
    halves = [[layer.chunk(2) for layer in layers] for layers in judged]
    on_fake, on_real = ([[layer[half] for layer in layers] for layers in halves] for half in (0, 1))
    return on_fake, on_real

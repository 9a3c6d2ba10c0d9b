"""OASIS: label map to image with a segmenting discriminator (Schönfeld, Sushko et al. 2021)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_synth.errors import ConfigError
from monai_synth.losses.labelmix import draw_labelmix_mask, mix
from monai_synth.losses.segmentation_adversarial import SegmentationAdversarialLoss, labelmix_consistency, logits_of
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.inputs import require, require_pair
from monai_synth.objectives.label_maps import NoiseSource, run_generator, take_labels
from monai_synth.objectives.players import bare, check_prediction

__all__ = ["Oasis"]


class Oasis:
    """The published step: the generator, then the discriminator on fakes that the updated generator makes anew.

    The new fakes have new noise and are made in training mode, so running statistics and spectral norms of the
    generator move twice in a step. Fake, real and mixed images pass the discriminator one after the other, for its
    spectral norms move with every pass.

    Published settings: Adam, betas (0, 0.999), learning rates 1e-4 (generator) and 4e-4 (discriminator), constant;
    moving average of the generator with 0.9999.

    Args:
        generator: ``condition (B, C, *spatial), noise -> image (B, D, *spatial)`` in [-1, 1].
        discriminator: ``(B, D, *spatial) -> scales x layers``, one scale, its logits ``(B, num_classes + 1, *spatial)``
            last, channel 0 for "fake".
        dont_care: class that teaches nothing, such as ``LabelTable.unknown_channel``; always 0 in the published code,
            for data with unknown voxels. Background is a class like any other.
        balance: give each class the same share in the loss: over the batches of all processes together, in each of
            several accumulated batches by itself, see :class:`monai_synth.losses.SegmentationAdversarialLoss`.
        lambda_labelmix: weight of the consistency under LabelMix; 0 leaves it and its pass out. Published: 10, or 5
            for Cityscapes.
        labelmix_quirk: mix as the published code, see :func:`monai_synth.losses.labelmix.draw_labelmix_mask`.
        perceptual: further loss ``(prediction, target) -> scalar`` on images in [-1, 1]; OASIS can do without it.
        lambda_perceptual: its weight.
        edge_channels: how many of the last channels of the condition are edge maps, not labels.
        draw_noise: ``condition -> noise``; ``None`` leaves it to the generator, one vector per image, as published.
            See :class:`monai_synth.objectives.label_maps.RegionNoise`.
        draw_labelmix: ``labels -> 0 or 1`` for each class present in the batch; ``None`` tosses coins.

    Raises:
        ConfigError: for a negative weight or number.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        dont_care: int | None = None,
        balance: bool = True,
        lambda_labelmix: float = 10.0,
        labelmix_quirk: bool = False,
        perceptual: nn.Module | None = None,
        lambda_perceptual: float = 10.0,
        edge_channels: int = 0,
        draw_noise: NoiseSource | None = None,
        draw_labelmix: Callable[[Tensor], Tensor] | None = None,
    ):
        for name, value in (("lambda_labelmix", lambda_labelmix), ("lambda_perceptual", lambda_perceptual)):
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        if edge_channels < 0:
            raise ConfigError(f"edge_channels={edge_channels}: choose 0 (none) or more.")
        self.players: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        self.adversarial = SegmentationAdversarialLoss(dont_care=dont_care, balance=balance)
        self.lambda_labelmix = lambda_labelmix
        self.labelmix_quirk = labelmix_quirk
        self.perceptual = perceptual
        self.lambda_perceptual = lambda_perceptual
        self.edge_channels = edge_channels
        self.draw_noise = draw_noise
        self.draw_labelmix = draw_labelmix

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Turn the label maps of ``batch["condition"]`` into images once."""
        condition = require(batch, "condition", method="Oasis")
        return {"pred": run_generator(self.players["generator"], condition, self.draw_noise)}

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"generator"`` (terms ``g_gan`` and, with a perceptual loss, ``g_perceptual``) or
                ``"discriminator"`` (``d_fake``, ``d_real`` and ``d_labelmix``).
            batch: ``condition``, one-hot labels and edges ``(B, C, *spatial)``, and its paired ``target``
                ``(B, D, *spatial)`` in [-1, 1].
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the batch has no target, or the target of another case, or the player is not known.
            GeometryError: if shapes or numbers of channels do not fit.
        """
        condition, target = require_pair(batch, method="Oasis")
        check_prediction(out["pred"], target)
        labels = take_labels(batch, method="Oasis", num_edges=self.edge_channels)
        if player == "generator":
            return self._generator_losses(labels, target, out["pred"])
        if player == "discriminator":
            return self._discriminator_losses(condition, labels, target)
        raise ConfigError(f"Oasis has no player {player!r}; its players are {', '.join(self.players)}.")

    def _generator_losses(self, labels: Tensor, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        on_fake = bare(self.players["discriminator"])(fake)
        terms = {"g_gan": self.adversarial(on_fake, labels, is_real=True)}
        if self.perceptual is not None:
            terms["g_perceptual"] = self.lambda_perceptual * self.perceptual(fake, target)
        return terms

    def _discriminator_losses(self, condition: Tensor, labels: Tensor, target: Tensor) -> dict[str, Tensor]:
        discriminator = self.players["discriminator"]
        with torch.no_grad():
            fake = run_generator(bare(self.players["generator"]), condition, self.draw_noise)
        on_fake = logits_of(discriminator(fake))
        on_real = logits_of(discriminator(target))
        terms = {
            "d_fake": self.adversarial(on_fake, labels, is_real=False),
            "d_real": self.adversarial(on_real, labels, is_real=True),
        }
        if self.lambda_labelmix > 0:
            draws = None if self.draw_labelmix is None else self.draw_labelmix(labels)
            mask = draw_labelmix_mask(labels, draws=draws, official_quirk=self.labelmix_quirk)
            on_mixed = logits_of(discriminator(mix(target, fake, mask)))
            consistency = labelmix_consistency(on_real, on_fake, on_mixed, mask)
            terms["d_labelmix"] = self.lambda_labelmix * consistency
        return terms

"""USIS: label map to image without pairs (Eskandar et al. 2023), and its variant for medical images."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.gradient_penalty import r1_penalty
from monai_synth.losses.labelmix import draw_labelmix_mask, mix
from monai_synth.losses.segmentation_adversarial import SegmentationAdversarialLoss, labelmix_consistency, logits_of
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.inputs import require
from monai_synth.objectives.label_maps import NoiseSource, run_generator, take_labels
from monai_synth.objectives.pairs import refuse_unpaired
from monai_synth.objectives.players import bare, check_prediction, member

__all__ = ["Usis"]


class Usis:
    """A generator between two: a segmenter that must find the labels in its images, a discriminator of whole images.

    The step: the generator; the segmenter, on fakes and *with* the generator, for it sees no labelled image; the
    discriminator. These two see fakes that the updated generator makes anew, in training mode and with new noise, the
    same fakes for both.

    The R1 penalty is lazy (Karras et al. 2020): every ``r1_interval``-th turn, times ``r1_interval``, so that it weighs
    on average as much as in every turn. It joins the other terms in one step of the optimiser.

    Published settings: Adam, betas (0, 0.999), learning rates 4e-4 for generator and segmenter (paper: 1e-4), 2e-3 for
    the discriminator, constant; moving average of the generator with 0.9999.

    Args:
        generator: ``condition (B, C, *spatial), noise -> image (B, D, *spatial)`` in [-1, 1].
        segmenter: ``(B, D, *spatial) -> scales x layers``, logits ``(B, num_classes + 1, *spatial)`` last; published:
            the discriminator of OASIS, whose channel 0 stays unused.
        discriminator: ``(B, D, *spatial) -> scales x layers``, logits last; published: ``WaveletDiscriminator``.
        decoder: ``features -> image``, see :class:`monai_synth.networks.wavelet_decoder.WaveletDecoder`: the features
            of a real image must tell the image. It belongs to the player of the discriminator, then an
            ``nn.ModuleDict`` with both names, and is trained with it (the published one has no optimiser).
        lambda_segmentation: weight of the segmenter's judgement in the generator's turn.
        dont_care: class that teaches nothing, such as ``LabelTable.unknown_channel``. The published code leaves out
            class 0, the background, and so gives the generator no reason to keep it dark.
        balance: give each class the same share in the cross entropy: over the batches of all processes together, in
            each of several accumulated batches by itself, see :class:`monai_synth.losses.SegmentationAdversarialLoss`.
        r1_gamma: weight of the mean squared gradient norm at real images; 0 leaves it out.
        r1_interval: turns of the discriminator between two penalties, where each of several accumulated batches is a
            turn; published code: 4, paper: 16.
        published_r1: weigh as the published code, the other way round: the adversarial terms of the discriminator times
            ``r1_interval``, the penalty not. It did so in a step of its own.
        lambda_decoder: weight of the mean absolute error of the decoder.
        body_consistency: ``(image, labels) -> scalar`` for the generator, see
            :class:`monai_synth.losses.BodyConsistencyLoss`.
        lambda_body: its weight; published: 0.5.
        supervised: the data are pairs: the segmenter also learns from real images, under LabelMix (published as
            ``model_supervision 2``).
        lambda_labelmix: weight of LabelMix; 0 leaves it out. Published: 5.
        lambda_feature: weight of the squared differences of the discriminator's features; needs pairs. Published (with
            weight 1, ``model_supervision 1``) in a step of its own.
        perceptual: further loss ``(prediction, target) -> scalar`` on images in [-1, 1]; needs pairs.
        lambda_perceptual: its weight.
        edge_channels: how many of the last channels of the condition are edge maps, not labels.
        draw_noise: ``condition -> noise``; ``None`` leaves it to the generator, one vector per image.
        draw_labelmix: ``labels -> 0 or 1`` for each class present in the batch; ``None`` tosses coins.

    Raises:
        ConfigError: for a negative weight, or an interval below 1.
    """

    def __init__(
        self,
        generator: nn.Module,
        segmenter: nn.Module,
        discriminator: nn.Module,
        *,
        decoder: nn.Module | None = None,
        lambda_segmentation: float = 1.0,
        dont_care: int | None = None,
        balance: bool = True,
        r1_gamma: float = 10.0,
        r1_interval: int = 16,
        published_r1: bool = False,
        lambda_decoder: float = 1.0,
        body_consistency: nn.Module | None = None,
        lambda_body: float = 0.5,
        supervised: bool = False,
        lambda_labelmix: float = 5.0,
        lambda_feature: float = 0.0,
        perceptual: nn.Module | None = None,
        lambda_perceptual: float = 10.0,
        edge_channels: int = 0,
        draw_noise: NoiseSource | None = None,
        draw_labelmix: Callable[[Tensor], Tensor] | None = None,
    ):
        weights = {
            "lambda_segmentation": lambda_segmentation,
            "r1_gamma": r1_gamma,
            "lambda_decoder": lambda_decoder,
            "lambda_body": lambda_body,
            "lambda_labelmix": lambda_labelmix,
            "lambda_feature": lambda_feature,
            "lambda_perceptual": lambda_perceptual,
        }
        for name, value in weights.items():
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        if r1_interval < 1 or edge_channels < 0:
            raise ConfigError(f"r1_interval={r1_interval} must be 1 or more, edge_channels={edge_channels} 0 or more.")
        judge = discriminator
        if decoder is not None:
            judge = nn.ModuleDict({"discriminator": discriminator, "decoder": decoder})
        self.players: dict[str, nn.Module] = {"generator": generator, "segmenter": segmenter, "discriminator": judge}
        self.segmentation = SegmentationAdversarialLoss(dont_care=dont_care, balance=balance)
        self.adversarial = AdversarialLoss("vanilla")  # the non-saturating logistic loss
        self.lambda_segmentation = lambda_segmentation
        self.has_decoder = decoder is not None
        self.lambda_decoder = lambda_decoder
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.published_r1 = published_r1
        self.body_consistency = body_consistency
        self.lambda_body = lambda_body
        self.supervised = supervised
        self.lambda_labelmix = lambda_labelmix
        self.lambda_feature = lambda_feature
        self.perceptual = perceptual
        self.lambda_perceptual = lambda_perceptual
        self.edge_channels = edge_channels
        self.draw_noise = draw_noise
        self.draw_labelmix = draw_labelmix
        self._needs_pairs = supervised or lambda_feature > 0 or perceptual is not None
        self._turns = 0
        self._fresh: tuple[Output, Tensor] | None = None

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Turn the label maps of ``batch["condition"]`` into images once."""
        condition = require(batch, "condition", method="Usis")
        return {"pred": run_generator(self.players["generator"], condition, self.draw_noise)}

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"generator"`` (terms ``g_segmentation``, ``g_gan`` and, where asked for, ``g_body``, ``g_feat``,
                ``g_perceptual``), ``"segmenter"`` (``s_fake``; with pairs ``s_real``, ``s_labelmix``) or
                ``"discriminator"`` (``d_fake``, ``d_real``, ``d_decoder`` and, in its turns, ``d_r1``).
            batch: ``condition``, one-hot labels and edges ``(B, C, *spatial)``, and ``target`` ``(B, D, *spatial)`` in
                [-1, 1], of other patients or the same.
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the batch has no target, or the target of another case where pairs are needed, or the player
                is not known.
            GeometryError: if shapes or numbers of channels do not fit.
        """
        target = require(batch, "target", method="Usis")
        labels = take_labels(batch, method="Usis", num_edges=self.edge_channels)
        if self._needs_pairs:
            refuse_unpaired(batch)
            check_prediction(out["pred"], target)
        if player == "generator":
            return self._generator_losses(labels, target, out["pred"])
        if player == "segmenter":
            return self._segmenter_losses(labels, target, self._remake(batch, out))
        if player == "discriminator":
            fake = self._remake(batch, out)
            self._fresh = None
            return self._discriminator_losses(target, fake)
        raise ConfigError(f"Usis has no player {player!r}; its players are {', '.join(self.players)}.")

    def state_dict(self) -> dict[str, Any]:
        """Where the lazy penalty stands."""
        return {"discriminator_turns": self._turns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the penalty where :meth:`state_dict` stood.

        Raises:
            CheckpointError: if the state is of another objective.
        """
        turns = state.get("discriminator_turns")
        if not isinstance(turns, int):
            raise CheckpointError(f"The state of Usis has 'discriminator_turns', a number; got {sorted(state)}.")
        self._turns = turns

    def _remake(self, batch: Batch, out: Output) -> Tensor:
        """Images of the updated generator, once for the two players that look at them."""
        if self._fresh is None or self._fresh[0] is not out:
            with torch.no_grad():
                fake = run_generator(bare(self.players["generator"]), batch["condition"], self.draw_noise)
            self._fresh = (out, fake)
        return self._fresh[1]

    def _generator_losses(self, labels: Tensor, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator = bare(member(self.players["discriminator"], "discriminator"))
        on_fake = discriminator(fake)
        segmented = bare(self.players["segmenter"])(fake)
        terms = {
            "g_segmentation": self.lambda_segmentation * self.segmentation(segmented, labels, is_real=True),
            "g_gan": self.adversarial(on_fake, is_real=True, for_discriminator=False),
        }
        if self.body_consistency is not None:
            terms["g_body"] = self.lambda_body * self.body_consistency(fake, labels)
        if self.lambda_feature > 0:
            with torch.no_grad():
                on_real = discriminator(target)
            terms["g_feat"] = self.lambda_feature * _feature_difference(on_fake, on_real)
        if self.perceptual is not None:
            terms["g_perceptual"] = self.lambda_perceptual * self.perceptual(fake, target)
        return terms

    def _segmenter_losses(self, labels: Tensor, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        segmenter = self.players["segmenter"]
        on_fake = logits_of(segmenter(fake))
        # Not "fake" but the labels: it learns from what the generator means by them, also with pairs.
        terms = {"s_fake": self.segmentation(on_fake, labels, is_real=True)}
        if self.supervised:
            on_real = logits_of(segmenter(target))
            terms["s_real"] = self.segmentation(on_real, labels, is_real=True)
            if self.lambda_labelmix > 0:
                draws = None if self.draw_labelmix is None else self.draw_labelmix(labels)
                mask = draw_labelmix_mask(labels, draws=draws)
                on_mixed = logits_of(segmenter(mix(target, fake, mask)))
                consistency = labelmix_consistency(on_real, on_fake, on_mixed, mask)
                terms["s_labelmix"] = self.lambda_labelmix * consistency
        return terms

    def _discriminator_losses(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        player = self.players["discriminator"]
        discriminator = member(player, "discriminator")
        on_fake, on_real = discriminator(fake), discriminator(real)
        factor = self.r1_interval if self.published_r1 else 1
        terms = {
            "d_fake": factor * self.adversarial(on_fake, is_real=False),
            "d_real": factor * self.adversarial(on_real, is_real=True),
        }
        if self.has_decoder:
            decoded = member(player, "decoder")(on_real[0][:-1])
            error = functional.l1_loss(decoded.float(), real.float())
            terms["d_decoder"] = factor * self.lambda_decoder * error
        if self.r1_gamma > 0 and self._turns % self.r1_interval == 0:
            weight = self.r1_gamma * (1 if self.published_r1 else self.r1_interval)
            terms["d_r1"] = weight * r1_penalty(bare(discriminator), real)
        self._turns += 1
        return terms


def _feature_difference(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Sum over the feature maps, without the logits, of their mean squared difference."""
    pairs = [pair for a, b in zip(fake, real, strict=True) for pair in zip(a[:-1], b[:-1], strict=True)]
    return torch.stack([functional.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()

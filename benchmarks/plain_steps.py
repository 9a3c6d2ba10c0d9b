"""One training step of pix2pix, pix2pixHD and OASIS in the published order of operations, in plain PyTorch.

Written from the published descriptions of the step; the networks are those of ``benchmarks/plain_networks.py``, the
optimiser is ``torch.optim.Adam`` as it comes. :class:`Measures` changes one thing at a time, to see what it brings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Measures:
    """What is done otherwise than in the published step.

    Attributes:
        autocast: convolutions in bfloat16.
        share_fake: (pix2pixHD) the discriminator sees the fake once for both turns, not twice.
        join_passes: (pix2pixHD) fake and real pass the discriminator as one batch; nothing in it mixes them.
        freeze: (pix2pixHD, OASIS) no gradient for the discriminator's weights in the generator's turn.
        forward_twice: (pix2pix, pix2pixHD) a second forward of the generator for the discriminator's turn, as in
            frameworks that do not share the first. The published steps share it.
    """

    autocast: bool = False
    share_fake: bool = False
    join_passes: bool = False
    freeze: bool = False
    forward_twice: bool = False


class PlainStep:
    """Networks, optimisers and the step of one method.

    Args:
        generator: ``condition -> image``.
        discriminator: as in ``benchmarks/plain_networks.py``.
    """

    rates = (2e-4, 2e-4)
    betas = (0.5, 0.999)

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        self.networks = {"generator": generator.train(), "discriminator": discriminator.train()}
        self.generator, self.discriminator = generator, discriminator
        self.optimizers: dict[str, Optimizer] = {
            name: torch.optim.Adam(network.parameters(), lr=rate, betas=self.betas)
            for (name, network), rate in zip(self.networks.items(), self.rates, strict=True)
        }
        self.measures = Measures()

    def __call__(self, batch: Batch) -> Losses:
        """One step; every loss, weighted as it enters the sums."""
        raise NotImplementedError

    def _generate(self, condition: Tensor) -> Tensor:
        with self._autocast():
            fake: Tensor = self.generator(condition)
        return fake

    def _judge(self, *parts: Tensor) -> list[list[Tensor]]:
        with self._autocast():
            scales: list[list[Tensor]] = self.discriminator(torch.cat(parts, 1))
        return scales

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.measures.autocast)

    def _update(self, name: str, loss: Callable[[], Tensor] | Tensor) -> None:
        self.optimizers[name].zero_grad()
        (loss() if callable(loss) else loss).backward()
        self.optimizers[name].step()


class PlainPix2Pix(PlainStep):
    """The discriminator on fake and real one after the other; then, frozen, the updated one judges the same fake."""

    def __call__(self, batch: Batch) -> Losses:
        """One step."""
        condition, target = batch["condition"], batch["target"]
        fake = self._generate(condition)
        shown = self._generate(condition) if self.measures.forward_twice else fake
        self.discriminator.requires_grad_(True)
        self.optimizers["discriminator"].zero_grad()
        d_fake = _entropy(self._judge(condition, shown.detach()), 0.0)
        d_real = _entropy(self._judge(condition, target), 1.0)
        ((d_fake + d_real) * 0.5).backward()
        self.optimizers["discriminator"].step()
        self.discriminator.requires_grad_(False)
        self.optimizers["generator"].zero_grad()
        g_gan = _entropy(self._judge(condition, fake), 1.0)
        g_l1 = 100 * functional.l1_loss(fake.float(), target)
        (g_gan + g_l1).backward()
        self.optimizers["generator"].step()
        return {"d_fake": 0.5 * d_fake, "d_real": 0.5 * d_real, "g_gan": g_gan, "g_l1": g_l1}


class PlainPix2PixHD(PlainStep):
    """All losses from one forward with three passes of the discriminator; then the generator, then the discriminator.

    Without the perceptual loss, which weighs the same everywhere.
    """

    def __call__(self, batch: Batch) -> Losses:
        """One step."""
        condition, target, measures = batch["condition"], batch["target"], self.measures
        fake = self._generate(condition)
        shown = (self._generate(condition) if measures.forward_twice else fake).detach()
        if measures.share_fake:
            shown = shown.requires_grad_()
        if measures.join_passes:
            both = self._judge(torch.cat([condition, condition]), torch.cat([shown, target]))
            pool = [[layer[: len(fake)] for layer in scale] for scale in both]
            on_real = [[layer[len(fake) :] for layer in scale] for scale in both]
        else:
            pool, on_real = self._judge(condition, shown), self._judge(condition, target)
        d_fake, d_real = _squares(pool, 0.0), _squares(on_real, 1.0)
        if measures.share_fake:
            on_fake = pool
        else:
            self.discriminator.requires_grad_(not measures.freeze)
            on_fake = self._judge(condition, fake)
            self.discriminator.requires_grad_(True)
        g_gan, g_feat = _squares(on_fake, 1.0), 10 * _feature_matching(on_fake, on_real)
        self.optimizers["generator"].zero_grad()
        if measures.share_fake:
            (gradient,) = torch.autograd.grad(g_gan + g_feat, shown, retain_graph=True)
            fake.backward(gradient)
        else:
            (g_gan + g_feat).backward()
        self.optimizers["generator"].step()
        self._update("discriminator", 0.5 * (d_fake + d_real))
        return {"d_fake": 0.5 * d_fake, "d_real": 0.5 * d_real, "g_gan": g_gan, "g_feat": g_feat}


class PlainOasis(PlainStep):
    """The generator; then the discriminator on a fake made anew, with LabelMix, three passes one after the other.

    The discriminator is not frozen in the generator's turn, as published.
    """

    rates = (1e-4, 4e-4)
    betas = (0.0, 0.999)

    def __call__(self, batch: Batch) -> Losses:
        """One step."""
        labels, target = batch["condition"], batch["target"]
        classes = labels.argmax(1)
        weights = _class_weights(labels)
        self.discriminator.requires_grad_(not self.measures.freeze)
        g_gan = (
            functional.cross_entropy(self._logits(self._generate(labels)), classes + 1, reduction="none") * weights
        ).mean()
        self._update("generator", g_gan)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self._generate(labels)
        on_fake, on_real = self._logits(fake), self._logits(target)
        d_fake = functional.cross_entropy(on_fake, torch.zeros_like(classes))
        d_real = (functional.cross_entropy(on_real, classes + 1, reduction="none") * weights).mean()
        mask = coins(labels.shape[1])[classes][:, None]
        on_mixed = self._logits(mask * target + (1 - mask) * fake)
        d_labelmix = 10 * functional.mse_loss(on_mixed, mask * on_real + (1 - mask) * on_fake)
        self._update("discriminator", d_fake + d_real + d_labelmix)
        return {"g_gan": g_gan, "d_fake": d_fake, "d_real": d_real, "d_labelmix": d_labelmix}

    def _logits(self, image: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self.discriminator(image)
        return logits.float()


def coins(num_classes: int) -> Tensor:
    """The tosses of LabelMix, the same in every step, so that losses can be compared."""
    return (torch.arange(num_classes) % 2).float()


def _entropy(scales: list[list[Tensor]], wanted: float) -> Tensor:
    logits = scales[0][-1].float()
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))


def _squares(scales: list[list[Tensor]], wanted: float) -> Tensor:
    total = torch.zeros(())
    for layers in scales:
        logits = layers[-1].float()
        total = total + functional.mse_loss(logits, torch.full_like(logits, wanted))
    return total


def _feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    total = torch.zeros(())
    for ours, theirs in zip(fake, real, strict=True):
        for one, other in zip(ours[:-1], theirs[:-1], strict=True):
            total = total + functional.l1_loss(one.float(), other.detach().float()) / len(fake)
    return total


def _class_weights(labels: Tensor) -> Tensor:
    counts = labels.sum((0, 2, 3))
    share = labels[:, 0].numel() / ((counts > 0).sum() * counts.clamp_min(1))
    return torch.einsum("c,bchw->bhw", share, labels)

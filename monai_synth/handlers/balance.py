"""Signs that one side of an adversarial training has lost."""

import logging
from itertools import pairwise
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from torch import Tensor

from monai_synth.handlers.outputs import named_losses

_LOGGER = logging.getLogger(__name__)
_NUM_PARTS = 4
_MIN_ITERATIONS = 2 * _NUM_PARTS


class BalanceMonitor:
    """Warns, once for each sign, when discriminator and generator have lost their balance.

    * The discriminator wins: over a whole epoch the mean of each of its losses on real and on synthetic images (terms
      ``d_*`` with ``real`` or ``fake`` in their name) is between 0 and ``low``. A discriminator that cannot tell them
      apart has 0.125 (least squares, halved), 0.35 (vanilla, halved) or 1 (hinge); at 0.01 there is hardly a gradient
      left for the generator. Losses below 0, as those of WGAN, say nothing and are passed over.
    * The generator loses ground: within an epoch after the first, the mean of ``generator_term`` is larger in each
      quarter than in the one before, and in the last one larger than in the first by ``growth`` of its absolute value
      and by ``growth`` itself.

    These are thresholds of experience, not proofs; the means of all terms are in ``history.csv``. After a resume the
    warnings may come once more.

    Args:
        low: mean loss of a discriminator that wins.
        growth: of the generator's adversarial loss within an epoch.
        generator_term: name of that loss.
    """

    def __init__(self, *, low: float = 0.01, growth: float = 0.5, generator_term: str = "g_gan") -> None:
        self.low = low
        self.growth = growth
        self.generator_term = generator_term
        self._terms: dict[str, list[Tensor]] = {}
        self._warned: set[str] = set()

    def attach(self, engine: Any) -> None:
        """Watch on the first process; nothing waits for the device before the end of an epoch."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._terms.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def _add(self, engine: Any) -> None:
        for name, value in named_losses(engine.state.output).items():
            if name == self.generator_term or (name.startswith("d_") and ("real" in name or "fake" in name)):
                self._terms.setdefault(name, []).append(value)

    def _judge(self, engine: Any) -> None:
        values = {name: torch.stack(terms).float().cpu() for name, terms in self._terms.items()}
        of_generator = values.pop(self.generator_term, torch.empty(0))
        means = {name: found.mean().item() for name, found in values.items()}
        if means and all(0 <= mean < self.low for mean in means.values()):
            numbers = ", ".join(f"{name} {mean:.2g}" for name, mean in means.items())
            self._warn(
                "discriminator",
                f"The discriminator wins: its mean losses in epoch {engine.state.epoch} were {numbers}, so it teaches "
                "the generator little. Try a lower learning rate or fewer turns for it "
                "(player_intervals={'discriminator': 2}), lsgan or hinge instead of vanilla, more augmentation, and "
                "check that condition and target belong together.",
            )
        if engine.state.epoch > 1 and len(of_generator) >= _MIN_ITERATIONS:
            parts = [part.mean().item() for part in of_generator.tensor_split(_NUM_PARTS)]
            rise = parts[-1] - parts[0]
            is_growing = all(after > before for before, after in pairwise(parts))
            if is_growing and rise > self.growth * max(1.0, abs(parts[0])):
                self._warn(
                    "generator",
                    f"The generator loses ground: {self.generator_term} rose from {parts[0]:.3g} to {parts[-1]:.3g} "
                    f"within epoch {engine.state.epoch}. Try a lower learning rate or fewer turns for the "
                    "discriminator (player_intervals={'discriminator': 2}), or clip_norm.",
                )

    def _warn(self, sign: str, message: str) -> None:
        if sign not in self._warned:
            self._warned.add(sign)
            _LOGGER.warning(message)

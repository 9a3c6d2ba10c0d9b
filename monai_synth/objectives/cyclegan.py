"""CycleGAN: unpaired translation in both directions, there and back again (Zhu et al. 2017).

A are the conditions, B the targets. Names say the domain: ``discriminator_a`` judges images of A, the real ones and
those that ``generator_ba`` makes of B. (The published code calls the judge of B ``D_A``, after the generator from A.)
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.image_pool import ImagePool, RandomSource
from monai_synth.objectives.pairs import require_unpaired
from monai_synth.objectives.players import bare, member

__all__ = ["CycleGan"]

_FAKE = {"a": "fake_condition", "b": "pred"}
_REAL = {"a": "condition", "b": "target"}


class CycleGan:
    """The published step: both generators together, then both discriminators with images from a history.

    Two players, ``"generators"`` and ``"discriminators"``, each a ``nn.ModuleDict`` of two networks with one optimiser;
    each network may be wrapped by DDP. Nothing in the losses compares a prediction with the target of its batch, so
    they may be of different patients.

    Args:
        generator_ab: ``condition (B, C, *spatial) -> (B, D, *spatial)`` in [-1, 1]; the one to use after training.
        generator_ba: ``target (B, D, *spatial) -> (B, C, *spatial)``.
        discriminator_a: ``(B, C, *spatial) -> scales x layers``, logits last.
        discriminator_b: ``(B, D, *spatial) -> scales x layers``.
        adversarial: kind of adversarial loss, see :class:`monai_synth.losses.AdversarialLoss`.
        lambda_a: weight of the cycle A to B to A.
        lambda_b: weight of the cycle B to A to B.
        lambda_identity: weight, relative to that of the cycle, of leaving alone what is in the wanted domain already;
            0 leaves the term and its forwards out. It needs conditions and targets of as many channels.
        pool_size: synthetic images of each domain in the history that the discriminators see, see
            :class:`monai_synth.objectives.ImagePool`; 0 shows them the newest only.
        pool_source: of the history's random numbers; ``None`` is Python's ``random``.

    Raises:
        ConfigError: for an option out of range.
    """

    def __init__(
        self,
        generator_ab: nn.Module,
        generator_ba: nn.Module,
        discriminator_a: nn.Module,
        discriminator_b: nn.Module,
        *,
        adversarial: str = "lsgan",
        lambda_a: float = 10.0,
        lambda_b: float = 10.0,
        lambda_identity: float = 0.5,
        pool_size: int = 50,
        pool_source: RandomSource | None = None,
    ):
        weights = (("lambda_a", lambda_a), ("lambda_b", lambda_b), ("lambda_identity", lambda_identity))
        for name, value in weights:
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        self.players: dict[str, nn.Module] = {
            "generators": nn.ModuleDict({"ab": generator_ab, "ba": generator_ba}),
            "discriminators": nn.ModuleDict({"a": discriminator_a, "b": discriminator_b}),
        }
        self.adversarial = AdversarialLoss(adversarial)
        self.lambda_cycle = {"a": lambda_a, "b": lambda_b}
        self.lambda_identity = lambda_identity
        self.pools = {domain: ImagePool(pool_size, source=pool_source) for domain in "ab"}

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Translate there and back.

        Returns:
            ``pred`` ``(B, D, *spatial)``, the conditions in B. If the batch has a target, also ``cycle_condition``,
            ``fake_condition`` (the targets in A) and ``cycle_target``.

        Raises:
            ConfigError: if the batch has no condition.
            GeometryError: if a generator gives another size than it gets, or other channels than its domain has.
        """
        condition = require_unpaired(batch, "condition", method="CycleGan")
        if "target" not in batch:
            return {"pred": member(self.players["generators"], "ab")(condition)}
        target = require_unpaired(batch, "target", method="CycleGan")
        pred = self._translate("ab", condition, like=target)
        # In the published order, on which running statistics of batch norm depend.
        cycle_condition = self._translate("ba", pred, like=condition)
        fake_condition = self._translate("ba", target, like=condition)
        return {
            "pred": pred,
            "cycle_condition": cycle_condition,
            "fake_condition": fake_condition,
            "cycle_target": self._translate("ab", fake_condition, like=target),
        }

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"generators"`` (terms ``g_gan_b``, ``g_cycle_a``, ``g_identity_b`` and the same for the other
                domain) or ``"discriminators"`` (``d_real_a``, ``d_fake_a``, ``d_real_b``, ``d_fake_b``).
            batch: ``condition`` ``(B, C, *spatial)`` and ``target`` ``(B, D, *spatial)`` in [-1, 1].
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the batch has no target, or the player is not known.
            GeometryError: if the identity is asked for between domains of different channels.
        """
        real = {domain: require_unpaired(batch, key, method="CycleGan") for domain, key in _REAL.items()}
        if player == "generators":
            terms = self._identity_losses(real) if self.lambda_identity > 0 else {}
            return terms | self._adversarial_losses(out) | self._cycle_losses(real, out)
        if player == "discriminators":
            return self._discriminator_losses(real, out)
        raise ConfigError(f"CycleGan has no player {player!r}; its players are {', '.join(self.players)}.")

    def state_dict(self) -> dict[str, Any]:
        """What moves in a training beside the networks: the histories of synthetic images."""
        return {f"pool_{domain}": pool.state_dict() for domain, pool in self.pools.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the histories of :meth:`state_dict`.

        Raises:
            CheckpointError: if the state is not that of a CycleGan, or of one with larger histories.
        """
        for domain, pool in self.pools.items():
            pool.load_state_dict(state.get(f"pool_{domain}", {}))

    def _translate(self, name: str, image: Tensor, *, like: Tensor) -> Tensor:
        """Run a generator, whose images must have the size of its input and the channels of ``like``."""
        result: Tensor = member(self.players["generators"], name)(image)
        expected = (len(image), like.shape[1], *image.shape[2:])
        if result.shape != expected:
            raise GeometryError(
                f"generator_{name} makes {list(result.shape)} of {list(image.shape)}, but must make {list(expected)}. "
                "Check in_channels and out_channels of both generators and the roles of the manifest."
            )
        return result

    def _identity_losses(self, real: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if real["a"].shape[1] != real["b"].shape[1]:
            raise GeometryError(
                f"lambda_identity={self.lambda_identity} puts targets {list(real['b'].shape)} through the generator "
                f"for conditions {list(real['a'].shape)}, which needs as many channels. Set lambda_identity=0."
            )
        terms = {}
        for domain, name in (("b", "ab"), ("a", "ba")):
            same = self._translate(name, real[domain], like=real[domain])
            weight = self.lambda_identity * self.lambda_cycle[domain]
            terms[f"g_identity_{domain}"] = weight * _distance(same, real[domain])
        return terms

    def _adversarial_losses(self, out: Output) -> dict[str, Tensor]:
        terms = {}
        for domain in "ba":
            discriminator = bare(member(self.players["discriminators"], domain))  # frozen in this turn
            on_fake = discriminator(out[_FAKE[domain]])
            terms[f"g_gan_{domain}"] = self.adversarial(on_fake, is_real=True, for_discriminator=False)
        return terms

    def _cycle_losses(self, real: Mapping[str, Tensor], out: Output) -> dict[str, Tensor]:
        return {
            f"g_cycle_{domain}": weight * _distance(out[f"cycle_{_REAL[domain]}"], real[domain])
            for domain, weight in self.lambda_cycle.items()
        }

    def _discriminator_losses(self, real: Mapping[str, Tensor], out: Output) -> dict[str, Tensor]:
        terms = {}
        for domain in "ba":  # the published order, in which the histories draw
            discriminator = member(self.players["discriminators"], domain)
            fake = self.pools[domain].query(out[_FAKE[domain]])
            on_real, on_fake = discriminator(real[domain]), discriminator(fake)
            terms[f"d_real_{domain}"] = 0.5 * self.adversarial(on_real, is_real=True)
            terms[f"d_fake_{domain}"] = 0.5 * self.adversarial(on_fake, is_real=False)
        return terms


def _distance(image: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference of an image and what should come back."""
    return functional.l1_loss(image.float(), original.float())

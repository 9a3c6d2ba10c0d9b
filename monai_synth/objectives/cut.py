"""CUT and FastCUT: unpaired translation in one direction by contrast of patches (Park et al. 2020).

An adversarial loss makes the image look like the targets; a contrastive loss keeps each of its places the place of the
condition: features of the generator's own encoder must tell it from other places of the same image.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses.adversarial import AdversarialLoss
from monai_synth.losses.patch_nce import PatchNCELoss
from monai_synth.objectives.base import Batch, Output
from monai_synth.objectives.pairs import require_unpaired
from monai_synth.objectives.players import bare, member

__all__ = ["Cut"]


class Cut:
    """The published step: one generator forward, then the discriminator, then generator and patch sampler together.

    With ``use_identity`` (CUT) the generator also translates the targets, which should stay as they are.

    Generator and sampler are one player, ``"generator"``, a ``nn.ModuleDict`` with one optimiser over both. Each of
    them may be wrapped by DDP. Keys come from the generator's one forward, where the published code runs its encoder
    again; with batch norm or dropout, which make that another feature, it is run again here too.

    Args:
        generator: ``(B, C, *spatial) -> (B, C, *spatial)`` in [-1, 1], with ``layers`` and ``encode``, as
            :class:`monai_synth.networks.ResNetGenerator` has them. It encodes its own images, so it takes as many
            channels as it gives.
        discriminator: ``(B, C, *spatial) -> scales x layers``, logits last; it sees no condition.
        sampler: :class:`monai_synth.networks.PatchSampler` for the widths of ``nce_layers``.
        adversarial: kind of adversarial loss, see :class:`monai_synth.losses.AdversarialLoss`.
        lambda_gan: weight of the adversarial loss of the generator.
        lambda_nce: weight of the contrastive loss: 1 in CUT, 10 in FastCUT.
        nce_layers: layers of the generator whose features are compared.
        num_patches: places per image and layer.
        temperature: of the contrastive loss.
        negatives: ``"image"`` or ``"batch"``, see :class:`monai_synth.losses.PatchNCELoss`.
        use_identity: also contrast targets with their translations; half of the weight goes there.
        flip_equivariance: mirror the generator's input in half of the iterations, and its features back before they are
            compared (FastCUT).
        flip_axis: axis that is mirrored; the last one as published.
        draw_places: gives the places of one comparison, a tensor ``(P,)`` of positions for each layer; ``None`` leaves
            it to the sampler. It is called for the conditions first, then for the targets.
        draw_flip: says whether an iteration is mirrored; ``None`` draws from torch's generator.

    Raises:
        ConfigError: for an option out of range, or networks that do not fit each other.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        sampler: nn.Module,
        *,
        adversarial: str = "lsgan",
        lambda_gan: float = 1.0,
        lambda_nce: float = 1.0,
        nce_layers: Sequence[int] = (0, 4, 8, 12, 16),
        num_patches: int = 256,
        temperature: float = 0.07,
        negatives: str = "image",
        use_identity: bool = True,
        flip_equivariance: bool = False,
        flip_axis: int = -1,
        draw_places: Callable[[], list[Tensor]] | None = None,
        draw_flip: Callable[[], bool] | None = None,
    ):
        for name, value in (("lambda_gan", lambda_gan), ("lambda_nce", lambda_nce)):
            if value < 0:
                raise ConfigError(f"{name}={value} would reward errors; choose 0 or more.")
        _check_networks(bare(generator), bare(sampler), nce_layers)
        self.players: dict[str, nn.Module] = {
            "discriminator": discriminator,
            "generator": nn.ModuleDict({"generator": generator, "sampler": sampler}),
        }
        self.adversarial = AdversarialLoss(adversarial)
        self.nce = PatchNCELoss(temperature=temperature, negatives=negatives)
        self.lambda_gan = lambda_gan
        self.lambda_nce = lambda_nce
        self.nce_layers = list(nce_layers)
        self.num_patches = num_patches
        self.use_identity = use_identity
        self.flip_equivariance = flip_equivariance
        self.flip_axis = flip_axis
        self.draw_places = draw_places
        self.draw_flip = draw_flip or _toss_a_coin
        # Whether an image's features are the same whatever else is in the batch, and each time.
        self.is_per_image = not any(isinstance(layer, _BatchNorm | _DropoutNd) for layer in generator.modules())

    @classmethod
    def fast(cls, generator: nn.Module, discriminator: nn.Module, sampler: nn.Module, **options: Any) -> Self:
        """FastCUT: ``lambda_nce=10``, no identity, mirrored inputs; other options as for :class:`Cut`."""
        settings = {"lambda_nce": 10.0, "use_identity": False, "flip_equivariance": True}
        return cls(generator, discriminator, sampler, **(settings | options))

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Translate ``batch["condition"]`` and, for the identity, ``batch["target"]`` in one forward.

        Returns:
            ``pred`` ``(B, C, *spatial)``, lying as the condition does; ``fake``, all that the generator gave, mirrored
            if it was; ``is_flipped``; and, where they can be had, ``key_{i}``, the features of its input.

        Raises:
            ConfigError: if the batch has no condition, or it shall be mirrored along no axis of the image.
            GeometryError: if condition and target differ in channels, or for the identity in size.
        """
        condition = require_unpaired(batch, "condition", method="Cut")
        images = self._sources(batch) if "target" in batch else condition
        is_flipped = self.flip_equivariance and self.draw_flip()
        generator = member(self.players["generator"], "generator")
        # A convolution of a mirrored image is not the mirrored convolution, so its features are no keys.
        has_keys = self.is_per_image and not is_flipped
        with _record(bare(generator), self.nce_layers if has_keys else []) as keys:
            fake = generator(self._flip(images) if is_flipped else images)
        pred = fake[: len(condition)]
        return {
            "pred": self._flip(pred) if is_flipped else pred,
            "fake": fake,
            "is_flipped": torch.tensor(is_flipped),
            **{f"key_{index}": keys[index] for index in keys},
        }

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Loss terms of one turn, already weighted.

        Args:
            player: ``"discriminator"`` (terms ``d_fake``, ``d_real``) or ``"generator"`` (``g_gan``, ``g_nce`` and, for
                the identity, ``g_nce_identity``).
            batch: ``condition`` and ``target`` ``(B, C, *spatial)`` in [-1, 1], usually of different patients.
            out: what :meth:`generate` returned.

        Raises:
            ConfigError: if the batch has no target, or the player is not known.
            GeometryError: if condition and target do not fit.
        """
        condition, target = self._images(batch)
        if player == "discriminator":
            return self._discriminator_losses(target, out["fake"][: len(condition)].detach())
        if player == "generator":
            return self._generator_losses(batch, out, num_images=len(condition))
        raise ConfigError(f"Cut has no player {player!r}; its players are {', '.join(self.players)}.")

    def _images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        condition, target = (require_unpaired(batch, key, method="Cut") for key in ("condition", "target"))
        if condition.shape[1] != target.shape[1] or (self.use_identity and condition.shape != target.shape):
            raise GeometryError(
                f"The condition has shape {list(condition.shape)} and the target {list(target.shape)}. Cut encodes "
                "both with one generator, so they need as many channels, and with use_identity=True one size: crop or "
                "pad them to it, with batches of as many images."
            )
        return condition, target

    def _sources(self, batch: Batch) -> Tensor:
        """Images that are translated: conditions, for the identity followed by targets."""
        condition, target = self._images(batch)
        return torch.cat([condition, target]) if self.use_identity else condition

    def _flip(self, images: Tensor) -> Tensor:
        if self.flip_axis % images.ndim < 2:
            raise ConfigError(
                f"flip_axis={self.flip_axis} is no spatial axis of images {list(images.shape)}; -1 is the last, which "
                "the published code mirrors."
            )
        return images.flip(self.flip_axis)

    def _discriminator_losses(self, target: Tensor, fake: Tensor) -> dict[str, Tensor]:
        discriminator = self.players["discriminator"]
        on_fake, on_real = discriminator(fake), discriminator(target)  # in the published order
        return {
            "d_fake": 0.5 * self.adversarial(on_fake, is_real=False),
            "d_real": 0.5 * self.adversarial(on_real, is_real=True),
        }

    def _generator_losses(self, batch: Batch, out: Output, *, num_images: int) -> dict[str, Tensor]:
        on_fake = bare(self.players["discriminator"])(out["fake"][:num_images])  # frozen in this turn
        g_gan = self.lambda_gan * self.adversarial(on_fake, is_real=True, for_discriminator=False)
        weight = self.lambda_nce / (2 if self.use_identity else 1)
        pairs = self._features(batch, out, num_images=num_images)
        nce = [weight * self._contrast(*pair, num_images=num_images) for pair in pairs]
        return {"g_gan": g_gan, **dict(zip(("g_nce", "g_nce_identity"), nce, strict=False))}

    def _features(self, batch: Batch, out: Output, *, num_images: int) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Features of the queries and keys of each comparison: conditions first, then targets."""
        # Not through a DDP wrapper: since the forward in `generate`, in which it took part, it waits for the gradients,
        # and a weight's gradient is ready when both of its uses have contributed.
        generator: Any = bare(member(self.players["generator"], "generator"))
        recorded = [out[f"key_{index}"] for index in self.nce_layers if f"key_{index}" in out]
        fakes = out["fake"]
        # Batch norm shall see together what it sees together in the published code: the images of one comparison.
        size = len(fakes) if self.is_per_image else num_images
        for start in range(0, len(fakes), size):
            queries = generator.encode(fakes[start : start + size], self.nce_layers)
            if out["is_flipped"]:
                queries = [self._flip(feature) for feature in queries]
            with torch.no_grad():
                keys = recorded or generator.encode(self._sources(batch)[start : start + size], self.nce_layers)
            for first in range(0, size, num_images):
                rows = slice(first, first + num_images)
                yield [feature[rows] for feature in queries], [feature[rows] for feature in keys]

    def _contrast(self, queries: list[Tensor], keys: list[Tensor], *, num_images: int) -> Tensor:
        sampler = member(self.players["generator"], "sampler")
        with torch.no_grad():  # the loss would cut off the keys' gradient anyway
            places = None if self.draw_places is None else self.draw_places()
            sampled_keys, places = bare(sampler)(keys, self.num_patches, places)
        sampled_queries, _ = sampler(queries, self.num_patches, places)
        per_layer = [self.nce(q, k, num_images=num_images) for q, k in zip(sampled_queries, sampled_keys, strict=True)]
        return torch.stack(per_layer).mean()


@contextmanager
def _record(generator: nn.Module, indices: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Keep what leaves these layers in a forward, without gradient."""
    seen: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        # A copy, as an activation behind the layer would overwrite it.
        return lambda module, args, output: seen.update({index: output.detach().clone()})

    layers: Any = generator.layers
    handles = [layers[index].register_forward_hook(keep(index)) for index in indices]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _toss_a_coin() -> bool:
    return bool(torch.rand(()) < 0.5)


def _check_networks(generator: nn.Module, sampler: nn.Module, nce_layers: Sequence[int]) -> None:
    if not callable(getattr(generator, "encode", None)) or not isinstance(
        getattr(generator, "layers", None), nn.ModuleList
    ):
        raise ConfigError(
            f"Cut compares features of its generator, but {type(generator).__name__} has no 'layers' and 'encode' to "
            "give them. Use ResNetGenerator."
        )
    num_layers = len(generator.layers)  # type: ignore[arg-type]
    if not nce_layers or len(set(nce_layers)) != len(nce_layers) or not set(nce_layers) <= set(range(num_layers)):
        raise ConfigError(
            f"nce_layers={list(nce_layers)}: name at least one layer, each once, of the 0 to {num_layers - 1} that the "
            "generator has (published: 0, 4, 8, 12, 16)."
        )
    widths = getattr(sampler, "in_channels", None)
    if widths is not None and len(widths) != len(nce_layers):
        raise ConfigError(
            f"nce_layers={list(nce_layers)} gives {len(nce_layers)} features, but the patch sampler was built for "
            f"{len(widths)}: in_channels={widths}. Name one width for each layer."
        )

"""The methods whose steps and networks are measured, ours and plain, with the same start values."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from benchmarks import plain_networks as plain
from benchmarks.plain_steps import PlainOasis, PlainPix2Pix, PlainPix2PixHD, PlainStep, coins
from monai_synth.engines import FusedAdam, SynthesisTrainer
from monai_synth.networks import build
from monai_synth.objectives import Oasis, Objective, Pix2Pix, Pix2PixHD

NUM_LABELS = 35
_OASIS_MULTIPLES = (16, 16, 16, 8, 4, 2, 1)
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Method:
    """One method at one width.

    Attributes:
        step: the plain step.
        objective: ours, of a generator and a discriminator.
        plain: the plain generator and discriminator.
        ours: name in the registry and arguments of both.
        size: of the images.
        channels: of the condition.
        channels_last: whether this layout pays for ours (measured).
    """

    step: type[PlainStep]
    objective: Callable[[nn.Module, nn.Module], Objective]
    plain: tuple[Callable[[], nn.Module], Callable[[], nn.Module]]
    ours: tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]
    size: int
    channels: int
    channels_last: bool = True

    def batch(self, batch_size: int) -> dict[str, Tensor]:
        """Images of noise, and labels in squares where the method takes labels."""
        torch.manual_seed(1)
        shape = (batch_size, 3, self.size, self.size)
        target = torch.rand(shape) * 2 - 1
        if self.channels == 3:
            return {"condition": torch.rand(shape) * 2 - 1, "target": target}
        coarse = torch.randint(NUM_LABELS, (batch_size, 8, 8))
        classes = coarse.repeat_interleave(self.size // 8, 1).repeat_interleave(self.size // 8, 2)
        labels = functional.one_hot(classes, NUM_LABELS).movedim(-1, 1).float().contiguous()
        edges = torch.zeros(batch_size, self.channels - NUM_LABELS, self.size, self.size)
        return {"condition": torch.cat([labels, edges], 1), "target": target}

    def make_ours(self) -> tuple[nn.Module, nn.Module]:
        """Our generator and discriminator."""
        torch.manual_seed(0)
        generator, discriminator = (build(name, **arguments) for name, arguments in self.ours)
        return generator, discriminator

    def make_plain(self, generator: nn.Module, discriminator: nn.Module) -> PlainStep:
        """The plain step, with the weights of ours."""
        networks = [make() for make in self.plain]
        pair = torch.zeros(1, self.ours[1][1]["in_channels"], self.size, self.size)
        copy_weights(generator, networks[0], self.batch(1)["condition"])
        copy_weights(discriminator, networks[1], pair)
        return self.step(*networks)

    def make_trainer(self, generator: nn.Module, discriminator: nn.Module, **options: Any) -> SynthesisTrainer:
        """Our training of two networks with our optimiser."""
        objective = self.objective(generator.train(), discriminator.train())
        rates = dict(zip(("generator", "discriminator"), self.step.rates, strict=True))
        optimizers = {
            name: FusedAdam(player.parameters(), lr=rates[name], betas=self.step.betas)
            for name, player in objective.players.items()
        }
        trainer = SynthesisTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=[{}],
            objective=objective,
            optimizers=optimizers,
            **options,
        )
        trainer.state.iteration, trainer.state.epoch_length = 1, 1
        return trainer


def run_step(trainer: SynthesisTrainer, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """One step of our training, losses included."""
    output = trainer._iteration(trainer, batch)
    return {name: value for name, value in output.items() if name[:2] in ("g_", "d_")}


def methods(*, quick: bool = False) -> dict[str, Method]:
    """Published widths at 256 x 256; ``quick``: tiny ones at 64 x 64, to see that everything runs."""
    size, width = (64, 8) if quick else (256, 64)
    downs, blocks = (6, 2) if quick else (8, 9)
    hidden = 16 if quick else 128
    labels, edges = NUM_LABELS, NUM_LABELS + 1
    patch = {"channels": width}
    return {
        "pix2pix": Method(
            PlainPix2Pix,
            Pix2Pix,
            (
                partial(plain.unet, width, downs),
                partial(plain.PatchDiscriminators, 6, num_scales=1, padding=1, norm="batch", width=width),
            ),
            (
                ("pix2pix_unet", {"in_channels": 3, "out_channels": 3, "channels": width, "num_downs": downs}),
                ("patchgan", {"in_channels": 6, **patch}),
            ),
            size,
            3,
        ),
        "pix2pixHD": Method(
            PlainPix2PixHD,
            Pix2PixHD,
            (
                partial(plain.resnet, edges, width, 4, blocks),
                partial(plain.PatchDiscriminators, 39, num_scales=2, padding=2, norm="instance", width=width),
            ),
            (
                (
                    "pix2pixhd_global",
                    {"in_channels": edges, "out_channels": 3, "channels": width, "num_blocks": blocks},
                ),
                ("pix2pixhd_multiscale", {"in_channels": 39, **patch}),
            ),
            size,
            edges,
            channels_last=False,
        ),
        "OASIS": Method(
            PlainOasis,
            partial(Oasis, draw_labelmix=_coins_of_present),
            (
                partial(plain.SpadeGenerator, labels, noise=64, multiples=_OASIS_MULTIPLES, width=width, hidden=hidden),
                partial(plain.OasisDiscriminator, labels, 2 * width),
            ),
            (
                ("oasis", {"in_channels": labels, "out_channels": 3, "channels": width, "hidden_channels": hidden}),
                ("oasis_discriminator", {"in_channels": 3, "num_classes": labels, "channels": 2 * width}),
            ),
            size,
            labels,
        ),
    }


def copy_weights(source: nn.Module, target: nn.Module, x: Tensor) -> None:
    """Give the layers of one network the weights of another: those of one shape, in the order in which they are called.

    Raises:
        ValueError: if the layers are not the same.
    """
    ours, theirs = _layers_by_shape(source, x), _layers_by_shape(target, x)
    if {key: len(found) for key, found in ours.items()} != {key: len(found) for key, found in theirs.items()}:
        raise ValueError(f"{type(source).__name__} and {type(target).__name__} do not have the same layers.")
    with torch.no_grad():
        for key, layers in ours.items():
            for layer, twin in zip(layers, theirs[key], strict=True):
                _copy_layer(layer, twin)


def _layers_by_shape(network: nn.Module, x: Tensor) -> dict[tuple[str, tuple[int, ...]], list[nn.Module]]:
    called: list[nn.Module] = []
    handles: list[RemovableHandle] = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in network.modules()
        if isinstance(module, _LAYERS)
    ]
    network.eval()
    with torch.no_grad():
        network(x)
    network.train()
    for handle in handles:
        handle.remove()
    found: dict[tuple[str, tuple[int, ...]], list[nn.Module]] = defaultdict(list)
    for module in dict.fromkeys(called):
        kind = next(layer.__name__ for layer in _LAYERS if isinstance(module, layer))
        shape = (module.num_features,) if isinstance(module, nn.BatchNorm2d) else tuple(module.weight.shape)  # type: ignore[union-attr]
        found[kind, shape].append(module)
    return found


def _copy_layer(source: nn.Module, target: nn.Module) -> None:
    state = target.state_dict()
    for key, value in source.state_dict().items():
        if key == "parametrizations.weight.original":
            key = "weight_orig"
        elif key.startswith("parametrizations.weight.0."):
            key = "weight" + key.removeprefix("parametrizations.weight.0.")
        state[key].copy_(value)


def _coins_of_present(labels: Tensor) -> Tensor:
    present = labels.sum((0, 2, 3)) > 0
    return coins(labels.shape[1])[present]

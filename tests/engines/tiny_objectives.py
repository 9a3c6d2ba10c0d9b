"""A tiny training of every objective, for laws that hold for all of them.

A new objective adds one line to ``BUILDERS`` and inherits the laws. Each builder makes it in two forms: as published,
with batch norm, dropout, drawn noise, history and lazy penalty; and ``is_per_image``, where nothing in a batch meets
and every random number is a function of the image, so that a batch may be cut into pieces.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from monai_synth.networks import (
    FeatureEncoder,
    LocalEnhancer,
    MultiScaleDiscriminator,
    OASISDiscriminator,
    OASISGenerator,
    PatchDiscriminator,
    PatchSampler,
    ResidualWaveletGenerator,
    ResNetGenerator,
    SPADEGenerator,
    StyleEncoder,
    UNetGenerator,
    WaveletDecoder,
    WaveletDiscriminator,
)
from monai_synth.objectives import Cut, CycleGan, Oasis, Pix2Pix, Pix2PixHD, Spade, Usis

NUM_LABELS = 3
NUM_NOISE = 3
NCE_LAYERS = (0, 4, 8)
NUM_PLACES = (22 * 38, 8 * 16, 4 * 8)
SIZES = {"images": (16, 32), "labels": (32, 64)}

Wrap = Callable[..., nn.Module]


def _bare(network: nn.Module, **_: Any) -> nn.Module:
    return network


class Items(Dataset):
    """Condition, target and instances of eight cases; the classes of the label maps differ from case to case."""

    def __init__(self, kind: str, *, num_items: int = 8, dtype: torch.dtype = torch.float32) -> None:
        self.kind = kind
        self.num_items = num_items
        self.dtype = dtype
        self.read: list[str] = []

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, size = torch.Generator().manual_seed(index), SIZES[self.kind]
        smooth = [
            functional.interpolate(torch.rand(1, 1, 4, 6, generator=source) * 1.6 - 0.8, size=size, mode="bilinear")[0]
            for _ in range(2)
        ]
        name = f"case{index}"
        self.read.append(name)
        item = {"target": -smooth[1], "condition": smooth[0], "case_id": name, "target_case_id": name}
        if self.kind == "labels":
            # Every other case has no class 2, and classes are not equally large.
            classes = torch.randint(2 + index % 2, tuple(n // 8 for n in size), generator=source)
            labels = classes.repeat_interleave(8, dim=0).repeat_interleave(8, dim=1)
            item["condition"] = functional.one_hot(labels, NUM_LABELS).movedim(-1, 0)
            item["instances"] = labels.unsqueeze(0)
        return {k: v.to(self.dtype) if k in ("condition", "target") else v for k, v in item.items()}


def make_batches(name: str, *, batch_size: int, num_batches: int, part: slice = slice(None)) -> list[dict[str, Any]]:
    """The same items in batches, in double precision, of which a process takes a part."""
    items = Items(kind_of(name), num_items=batch_size * num_batches, dtype=torch.float64)
    return [
        torch.utils.data.default_collate([items[start + k] for k in range(batch_size)][part])
        for start in range(0, len(items), batch_size)
    ]


def noise_of_image(condition: Tensor) -> Tensor:
    """A vector per image that depends on the image alone ``(B, NUM_NOISE)``."""
    vectors = []
    for image in condition:
        seed = zlib.crc32(image.detach().cpu().float().contiguous().numpy().tobytes())
        vectors.append(torch.randn(NUM_NOISE, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(vectors).to(condition)


def style_of_image(mu: Tensor, logvar: Tensor) -> Tensor:
    """A vector from the distribution of an encoder, the same number of deviations from its mean in every image."""
    return mu + torch.exp(0.5 * logvar) * torch.linspace(-1, 1, mu.shape[1]).to(mu)


def toss_of_class(labels: Tensor) -> Tensor:
    """A toss for every class present that depends on the class alone."""
    return torch.tensor([1, 0, 1])[labels.argmax(1).unique()]


def places() -> list[Tensor]:
    """Twelve places of every layer, always the same."""
    return [torch.arange(12) * (count // 12) for count in NUM_PLACES]


def build_pix2pix(wrap: Wrap, *, is_per_image: bool, **options: Any) -> Pix2Pix:
    norm, dropout = ("instance", 0.0) if is_per_image else ("batch", 0.5)
    generator = UNetGenerator(channels=4, num_downs=3, norm=norm, dropout=dropout)
    discriminator = PatchDiscriminator(in_channels=2, channels=4, num_layers=1, norm=norm)
    return Pix2Pix(wrap(generator), wrap(discriminator), **options)


def build_pix2pixhd(wrap: Wrap, *, is_per_image: bool, **options: Any) -> Pix2PixHD:
    norm = "instance" if is_per_image else "batch"
    generator = LocalEnhancer(
        in_channels=NUM_LABELS + 2, channels=2, num_downs=1, num_blocks=1, num_local_blocks=1, norm=norm
    )
    critic = MultiScaleDiscriminator(in_channels=NUM_LABELS + 1, channels=2, num_layers=1, norm=norm)
    encoder = FeatureEncoder(out_channels=2, channels=2, num_downs=2, norm=norm)
    options = {"fix_trunk_epochs": 1, **options}
    return Pix2PixHD(
        wrap(generator, find_unused_parameters=True), wrap(critic), encoder=wrap(encoder), **options
    )  # fmt: skip


def build_spade(wrap: Wrap, *, is_per_image: bool, use_spectral_norm: bool = True, **options: Any) -> Spade:
    generator = SPADEGenerator(
        in_channels=NUM_LABELS, channels=1, noise_channels=NUM_NOISE, latent_size=(1, 2), hidden_channels=2,
        init_gain=1.0, norm="instance" if is_per_image else "batch", use_spectral_norm=use_spectral_norm,
    )  # fmt: skip
    critic = MultiScaleDiscriminator(
        in_channels=NUM_LABELS + 1, channels=2, num_layers=1, use_spectral_norm=use_spectral_norm
    )
    encoder = StyleEncoder(
        noise_channels=NUM_NOISE, channels=2, num_layers=3, image_size=(32, 64), use_spectral_norm=use_spectral_norm
    )
    if is_per_image:
        # The published divergence is summed over the batch, so it is another loss in another batch.
        options = {"sample": style_of_image, "average_kld": True, **options}
    return Spade(wrap(generator), wrap(critic), encoder=wrap(encoder), **options)


def _segmenter(use_spectral_norm: bool) -> OASISDiscriminator:
    return OASISDiscriminator(
        in_channels=1, num_classes=NUM_LABELS, channels=2, init_gain=1.0, use_spectral_norm=use_spectral_norm
    )


def build_oasis(wrap: Wrap, *, is_per_image: bool, use_spectral_norm: bool = True, **options: Any) -> Oasis:
    generator = OASISGenerator(
        in_channels=NUM_LABELS, channels=1, noise_channels=NUM_NOISE, hidden_channels=2, init_gain=1.0,
        norm="instance" if is_per_image else "batch", use_spectral_norm=use_spectral_norm,
    )  # fmt: skip
    if is_per_image:
        options = {"draw_noise": noise_of_image, "draw_labelmix": toss_of_class, **options}
    return Oasis(wrap(generator), wrap(_segmenter(use_spectral_norm)), **options)


def build_usis(wrap: Wrap, *, is_per_image: bool, use_spectral_norm: bool = True, **options: Any) -> Usis:
    generator = ResidualWaveletGenerator(
        in_channels=NUM_LABELS, channels=2, num_blocks=3, noise_channels=NUM_NOISE, hidden_channels=2, init_gain=1.0,
        norm="instance" if is_per_image else "batch", use_spectral_norm=use_spectral_norm,
    )  # fmt: skip
    options = {"supervised": True, "r1_interval": 4, **options}
    segmenter = wrap(_segmenter(use_spectral_norm))
    if is_per_image:
        # The published discriminator sees how much the images of a batch differ.
        judge = PatchDiscriminator(in_channels=1, channels=4, num_layers=1, norm="instance")
        options = {"draw_noise": noise_of_image, "draw_labelmix": toss_of_class, **options}
        return Usis(wrap(generator), segmenter, wrap(judge), **options)
    judge = WaveletDiscriminator(in_channels=1, image_size=SIZES["labels"], channels=2, max_channels=4)
    decoder = wrap(WaveletDecoder.of(judge, channels=2, dropout=0.5))
    return Usis(wrap(generator), segmenter, wrap(judge), decoder=decoder, **options)


def build_cut(wrap: Wrap, *, is_per_image: bool, make: Callable[..., Cut] = Cut, **options: Any) -> Cut:
    norm, dropout = ("instance", 0.0) if is_per_image else ("batch", 0.5)
    generator = ResNetGenerator(channels=2, num_blocks=1, norm=norm, dropout=dropout)
    discriminator = PatchDiscriminator(in_channels=1, channels=4, num_layers=1, norm=norm)
    sampler = PatchSampler(in_channels=[1, 4, 8], out_channels=4)
    if is_per_image:
        options = {"draw_places": places, "draw_flip": lambda: True, **options}
    options = {"nce_layers": NCE_LAYERS, "num_patches": 12, **options}
    return make(wrap(generator), wrap(discriminator), wrap(sampler), **options)


def build_fastcut(wrap: Wrap, *, is_per_image: bool, **options: Any) -> Cut:
    return build_cut(wrap, is_per_image=is_per_image, make=Cut.fast, **options)


def build_cyclegan(wrap: Wrap, *, is_per_image: bool, **options: Any) -> CycleGan:
    norm, dropout = ("instance", 0.0) if is_per_image else ("batch", 0.5)
    generators = [ResNetGenerator(channels=2, num_blocks=1, norm=norm, dropout=dropout) for _ in range(2)]
    judges = [PatchDiscriminator(in_channels=1, channels=4, num_layers=1, norm=norm) for _ in range(2)]
    # A history draws; one that is not full gives back what it gets.
    options = {"pool_size": 50 if is_per_image else 3, **options}
    return CycleGan(*map(wrap, generators + judges), **options)


BUILDERS: dict[str, Callable[..., Any]] = {
    "pix2pix": build_pix2pix,
    "pix2pixhd": build_pix2pixhd,
    "spade": build_spade,
    "oasis": build_oasis,
    "usis": build_usis,
    "cut": build_cut,
    "fastcut": build_fastcut,
    "cyclegan": build_cyclegan,
}
UNPAIRED = ("cut", "fastcut", "cyclegan")
SPECTRAL = ("spade", "oasis", "usis")


def kind_of(name: str) -> str:
    """Whether the conditions of an objective are label maps or images."""
    return "images" if name in ("pix2pix", *UNPAIRED) else "labels"


def build(name: str, *, wrap: Wrap = _bare, is_per_image: bool = False, seed: int = 0, **options: Any) -> Any:
    """Make an objective.

    Args:
        name: a key of ``BUILDERS``.
        wrap: put around every network, such as DDP.
        is_per_image: the form in which a batch may be cut into pieces.
        seed: of the start weights.
        **options: of the objective; for ``SPECTRAL`` ones also ``use_spectral_norm``.
    """
    torch.manual_seed(seed)
    return BUILDERS[name](wrap, is_per_image=is_per_image, **options)


def main_generator(objective: Any) -> nn.Module:
    """The network that is used after training."""
    player = objective.players.get("generator") or objective.players["generators"]
    if not isinstance(player, nn.ModuleDict):
        return player
    return player["ab"] if "ab" in player else player["generator"]


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every number in nested containers, as tensors under the way to them."""
    if isinstance(value, Tensor):
        yield prefix, value.detach().clone()
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from flatten(entry, f"{prefix}.{key}")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from flatten(entry, f"{prefix}.{index}")
    elif isinstance(value, bool | int | float):
        yield prefix, torch.tensor(float(value), dtype=torch.float64)

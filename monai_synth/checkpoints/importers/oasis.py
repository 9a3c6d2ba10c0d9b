"""OASIS and the methods that took its networks over: its generator (with edges or without) and its discriminator."""

from monai_synth.checkpoints.importers.family import Family, Hints, Translation, place_layers
from monai_synth.checkpoints.importers.noise import find_noise, notes_on_average
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.oasis import OASISGenerator
from monai_synth.networks.oasis_discriminator import OASISDiscriminator

_NUM_BLOCKS = 6


def _is_oasis(state: StateDict) -> bool:
    # The wavelet generators share these names, but carry the constants of their wavelets.
    has_wavelets = any(key.endswith("iwt.ll") for key in state)
    has_blocks = "body.0.conv_0.weight_orig" in state or "body.0.conv_0.weight" in state
    return has_blocks and "fc.weight" in state and not has_wavelets


def _translate_oasis(state: StateDict, hints: Hints) -> Translation:
    layers = {"fc": "stem", "conv_img": "head"}
    for i in range(_NUM_BLOCKS):
        for part in "01s":
            norm, ours = f"body.{i}.norm_{part}", f"blocks.{i}.norm_{part}"
            layers |= {
                f"body.{i}.conv_{part}": f"blocks.{i}.conv_{part}",
                f"{norm}.first_norm": f"{ours}.norm",
                f"{norm}.mlp_shared.0": f"{ours}.shared",
                f"{norm}.mlp_gamma": f"{ours}.gamma",
                f"{norm}.mlp_beta": f"{ours}.beta",
            }
    has_spectral_norm = "body.0.conv_0.weight_orig" in state
    first = state["body.0.conv_0.weight_orig" if has_spectral_norm else "body.0.conv_0.weight"]
    stem, shared, last = state["fc.weight"], state["body.0.norm_0.mlp_shared.0.weight"], state["conv_img.weight"]
    # Features are joined with edges in front of every block; noise, labels and edges in front of the stem.
    edge_channels = first.shape[1] - stem.shape[0]
    noise_channels, noise_guess = find_noise(stem.shape[1], edge_channels, hints)
    placement = place_layers(state, layers)
    return Translation(
        network_class=OASISGenerator,
        arguments={
            "spatial_dims": stem.ndim - 2,
            "in_channels": stem.shape[1] - noise_channels,
            "out_channels": last.shape[0],
            "channels": last.shape[1],
            "noise_channels": noise_channels,
            "edge_channels": edge_channels,
            "hidden_channels": shared.shape[0],
            "kernel_size": shared.shape[2],
            "norm": "batch" if "body.0.norm_0.first_norm.running_mean" in state else "instance",
            "use_spectral_norm": has_spectral_norm,
        },
        placement=placement,
        guesses={"noise_channels": noise_guess},
        notes=notes_on_average(state),
    )


def _is_oasis_discriminator(state: StateDict) -> bool:
    has_levels = "body_down.0.conv1.0.weight_orig" in state or "body_down.0.conv1.0.weight" in state
    return has_levels and "layer_up_last.weight" in state


def _translate_oasis_discriminator(state: StateDict, hints: Hints) -> Translation:
    layers = {"layer_up_last": "head"}
    for i in range(_NUM_BLOCKS):
        # The first convolution of a level comes after its activation and its resizing, where there are such.
        for theirs, ours, index in ((f"body_down.{i}", f"downs.{i}", min(i, 1)), (f"body_up.{i}", f"ups.{i}", 2)):
            layers |= {
                f"{theirs}.conv1.{index}": f"{ours}.conv_0",
                f"{theirs}.conv2.1": f"{ours}.conv_1",
                f"{theirs}.conv_s": f"{ours}.conv_s",
            }
    has_spectral_norm = "body_down.0.conv1.0.weight_orig" in state
    first = state["body_down.0.conv1.0.weight_orig" if has_spectral_norm else "body_down.0.conv1.0.weight"]
    return Translation(
        network_class=OASISDiscriminator,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "num_classes": state["layer_up_last.weight"].shape[0] - 1,
            "channels": first.shape[0],
            "use_spectral_norm": has_spectral_norm,
        },
        placement=place_layers(state, layers),
        notes=notes_on_average(state),
    )


FAMILIES: tuple[Family, ...] = (
    Family("oasis", "OASIS generator, also with edges, *_G.pth and *_EMA.pth", _is_oasis, _translate_oasis),
    Family(
        "oasis_discriminator",
        "OASIS discriminator or USIS segmenter, *_D.pth and *_S.pth",
        _is_oasis_discriminator,
        _translate_oasis_discriminator,
    ),
)

"""CUT: the discriminator without aliasing, and the patch sampler."""

import re

from monai_synth.checkpoints.importers.constants import refuse_other_constant
from monai_synth.checkpoints.importers.family import Family, Hints, Translation, find_norm, place_layers
from monai_synth.checkpoints.weights import StateDict
from monai_synth.networks.antialias import BLUR_DOWN_TAPS, blur_kernel
from monai_synth.networks.patch import PatchDiscriminator
from monai_synth.networks.patch_sampler import PatchSampler

_BLUR = "constant blur [1, 2, 1] along each axis, which our network makes itself"


def _is_antialiased_patchgan(state: StateDict) -> bool:
    if not all(re.fullmatch(r"model\.\d+\.\w+", key) for key in state):
        return False
    first = state.get("model.0.weight")
    return first is not None and set(first.shape[2:]) == {4} and "model.2.filt" in state


def _translate_antialiased_patchgan(state: StateDict, hints: Hints) -> Translation:
    # Convolution, norm, activation and blur of every layer are counted in one row. The first layer has no norm, the
    # last before the head no blur: convolutions at 0, 3, 7, 11, head at 14 with three blurs.
    num_layers = sum(key.endswith(".filt") for key in state)
    layers = {"model.0": "layers.0.conv", f"model.{4 * num_layers + 2}": "head"}
    for i in range(1, num_layers + 1):
        layers |= {f"model.{4 * i - 1}": f"layers.{i}.conv", f"model.{4 * i}": f"layers.{i}.norm"}
    norm = find_norm(state, conv="model.3", norm="model.4")
    placement = place_layers(state, layers, has_statistics=norm == "batch")
    for i in range(num_layers):
        key = f"model.{4 * i + 2}.filt"
        kernel = blur_kernel(BLUR_DOWN_TAPS, spatial_dims=state[key].ndim - 2)
        refuse_other_constant(key, state[key], kernel, name="the blur [1, 2, 1] of CUT")
        placement.dropped[key] = _BLUR
    first = state["model.0.weight"]
    return Translation(
        network_class=PatchDiscriminator,
        arguments={
            "spatial_dims": first.ndim - 2,
            "in_channels": first.shape[1],
            "channels": first.shape[0],
            "num_layers": num_layers,
            "norm": norm,
            "antialias": True,
        },
        placement=placement,
    )


def _is_patch_sampler(state: StateDict) -> bool:
    return "mlp_0.0.weight" in state and all(re.fullmatch(r"mlp_\d+\.[02]\.(weight|bias)", key) for key in state)


def _translate_patch_sampler(state: StateDict, hints: Hints) -> Translation:
    num_maps = len({key.partition(".")[0] for key in state})
    layers = {f"mlp_{i}.{j}": f"mlps.{i}.{j}" for i in range(num_maps) for j in (0, 2)}
    return Translation(
        network_class=PatchSampler,
        arguments={
            "in_channels": [state[f"mlp_{i}.0.weight"].shape[1] for i in range(num_maps)],
            "out_channels": state["mlp_0.2.weight"].shape[0],
        },
        placement=place_layers(state, layers),
    )


FAMILIES: tuple[Family, ...] = (
    Family("cut_patchgan", "CUT discriminator, *_net_D.pth", _is_antialiased_patchgan, _translate_antialiased_patchgan),
    Family("cut_patch_sampler", "CUT patch sampler, *_net_F.pth", _is_patch_sampler, _translate_patch_sampler),
)

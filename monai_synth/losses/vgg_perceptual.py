"""The perceptual loss that pix2pixHD, SPADE and OASIS were published with: VGG19 features (Johnson et al. 2016).

For medical images :class:`monai_synth.losses.PerceptualLoss` has networks that were trained on such; this one is for
equality with the publications. VGG19 is built here from its weights, so torchvision is not needed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.checkpoints import read_state_dict
from monai_synth.errors import CheckpointError, ConfigError, GeometryError

__all__ = ["VGGPerceptualLoss"]

_SOURCE = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Convolutions of VGG19 (Simonyan & Zisserman 2015) by their place in torchvision's `features`, up to relu5_1. Between
# two neighbours there is a ReLU, and where the places differ by three, a pooling behind it.
_CONVS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
_COMPARED = (0, 5, 10, 19, 28)  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_KEY = re.compile(r"(?:features|slice\d)\.(\d+)\.(weight|bias)")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class VGGPerceptualLoss(nn.Module):
    """Weighted mean absolute difference of two images at relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of VGG19.

    The weights 1/32, 1/16, 1/8, 1/4 and 1 are the published ones. The network stays frozen.

    Args:
        weights: file of torchvision's VGG19 (keys ``features.{i}.weight|bias``; the classifier is passed over) or of
            its slices alone (``slice{n}.{i}.weight|bias``, same numbers); or such a state dict. The widths are those of
            the weights. Nothing is downloaded.
        imagenet_normalisation: map [-1, 1] to what VGG19 was trained with. Off as published: the images in [-1, 1] go
            into the network as they are.

    Raises:
        ConfigError: if the file is not there.
        CheckpointError: if the weights are not those of VGG19.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: str | Path | Mapping[str, Tensor], *, imagenet_normalisation: bool = False):
        super().__init__()
        self.imagenet_normalisation = imagenet_normalisation
        self.convs = nn.ModuleList(_build(_read(weights)))
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_IMAGENET_DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps that are compared, from fine to coarse.

        Args:
            image: ``(B, 1 or 3, H, W)`` in [-1, 1]; a single channel stands for all three.
        """
        x = image.expand(-1, 3, -1, -1)
        if self.imagenet_normalisation:
            x = ((x + 1) / 2 - self.mean) / self.deviation
        found = []
        for before, place, conv in zip((0, *_CONVS), _CONVS, self.convs, strict=False):
            if place - before == 3:
                x = functional.max_pool2d(x, 2)
            x = functional.relu(conv(x))
            if place in _COMPARED:
                found.append(x)
        return found

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Perceptual distance.

        Args:
            prediction: ``(B, C, H, W)`` in [-1, 1], 1 or 3 channels, at least 16 x 16.
            target: same shape and range; no gradient flows into it.

        Returns:
            Scalar, computed in float32 also under autocast, not yet multiplied by a lambda (published: 10).

        Raises:
            GeometryError: if the shapes differ or do not fit VGG19.
        """
        _check_shapes(prediction, target)
        if self.mean.device != prediction.device:  # not part of a player: nobody else moves it
            self.to(prediction.device)
        with torch.autocast(prediction.device.type, enabled=False):
            with torch.no_grad():
                theirs = self.features(target.float())
            ours = self.features(prediction.float())
            terms = [weight * functional.l1_loss(a, b) for weight, a, b in zip(_WEIGHTS, ours, theirs, strict=True)]
            return torch.stack(terms).sum()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever is asked."""
        return super().train(False)


def _read(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the convolutions as ``{place}.weight|bias``."""
    if isinstance(weights, Mapping):
        source, state = "The state dict", dict(weights)
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise ConfigError(f"There are no VGG19 weights {path}. Nothing is downloaded: put {_SOURCE} there.")
        source, state = str(path), read_state_dict(path)
    found = {f"{match[1]}.{match[2]}": value for key, value in state.items() if (match := _KEY.fullmatch(key))}
    missing = [name for place in _CONVS for name in (f"{place}.weight", f"{place}.bias") if name not in found]
    if missing:
        raise CheckpointError(
            f"{source} does not hold VGG19 up to relu5_1: {len(missing)} of {2 * len(_CONVS)} entries are missing "
            f"(first: 'features.{missing[0]}'). Take {_SOURCE}."
        )
    return found


def _build(state: Mapping[str, Tensor]) -> list[nn.Conv2d]:
    convs = []
    channels = 3
    for place in _CONVS:
        weight, bias = state[f"{place}.weight"], state[f"{place}.bias"]
        expected = [len(bias), channels, 3, 3]
        if list(weight.shape) != expected:
            raise CheckpointError(
                f"'features.{place}.weight' has shape {list(weight.shape)}, in VGG19 {expected}. Take {_SOURCE}."
            )
        conv = nn.Conv2d(channels, len(bias), 3, padding=1)
        conv.load_state_dict({"weight": weight, "bias": bias})
        convs.append(conv)
        channels = len(bias)
    return convs


def _check_shapes(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] not in (1, 3):
        raise GeometryError(
            f"Prediction {list(prediction.shape)} and target {list(target.shape)}: VGG19 takes one shape (B, C, H, W) "
            "with 1 or 3 channels. Compare other channels one by one, and volumes slice by slice or with the "
            "MedicalNet of PerceptualLoss."
        )
    if min(prediction.shape[2:]) < 2 ** (len(_COMPARED) - 1):
        raise GeometryError(
            f"The images have size {list(prediction.shape[2:])}, but VGG19 halves them to 1/16: use at least 16 along "
            "each axis."
        )

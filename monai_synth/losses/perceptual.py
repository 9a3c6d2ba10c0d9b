"""Perceptual loss with networks trained on medical images, from a local folder, never from the internet.

MONAI computes it (``monai.losses.PerceptualLoss``); this file checks that all files are there, because MONAI would
download what is missing, and adapts range, precision and mode.

Range: [-1, 1] in, as the generators give; MONAI's networks expect [0, 1].
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from monai.losses.perceptual import PerceptualLoss as MonaiPerceptualLoss
from torch import Tensor, nn

from monai_synth.errors import ConfigError, GeometryError

_CODE = "Project-MONAI_perceptual-models_main"
_CODE_SOURCE = "https://github.com/Project-MONAI/perceptual-models"
_WEIGHTS_SOURCE = "https://huggingface.co/MONAI/checkpoints"


@dataclass(frozen=True)
class _Network:
    spatial_dims: int
    weights: str
    code: str


PERCEPTUAL_NETWORKS = {
    "radimagenet_resnet50": _Network(2, "RadImageNet-ResNet50_notop.pth", "radimagenet/resnet.py"),
    "medicalnet_resnet10_23datasets": _Network(
        3, "monai_checkpoints/medicalnet_resnet_10_23dataset.pth", "medicalnet/resnet.py"
    ),
}


class PerceptualLoss(nn.Module):
    """Distance of two images in the feature space of a pretrained medical network.

    Args:
        spatial_dims: 2 or 3.
        weights_dir: folder in the layout of ``torch.hub``; the error names the files that it misses. The code in its
            sub-folder ``Project-MONAI_perceptual-models_main`` is run.
        network: ``"radimagenet_resnet50"`` (2D) or ``"medicalnet_resnet10_23datasets"`` (3D); ``None`` chooses by
            ``spatial_dims``.

    Raises:
        ConfigError: if the network does not fit or files are missing.
    """

    def __init__(self, *, spatial_dims: int = 2, weights_dir: str | Path, network: str | None = None):
        super().__init__()
        self.network_name = _choose_network(spatial_dims, network)
        self.spatial_dims = spatial_dims
        folder = Path(weights_dir).expanduser().resolve()
        _check_files(folder, self.network_name)
        with _hub_folder(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns of the folder, and of channel_wise, which fails on a GPU
            self.distance = MonaiPerceptualLoss(
                spatial_dims, self.network_name, is_fake_3d=False, cache_dir=str(folder)
            ).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever is asked: the statistics of the pretrained network are part of it."""
        return super().train(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Perceptual distance.

        Args:
            prediction: ``(B, C, *spatial)`` in [-1, 1]; 1 or 3 channels in 2D, any number in 3D.
            target: same shape and range.

        Returns:
            Scalar, computed in float32 also under autocast. 0 where an image is constant in 3D: MedicalNet's own
            normalisation would divide by its standard deviation.

        Raises:
            GeometryError: if the shapes differ or do not fit the network.
        """
        if prediction.shape != target.shape or prediction.ndim != self.spatial_dims + 2:
            raise GeometryError(
                f"Prediction {list(prediction.shape)} and target {list(target.shape)} must have one shape with "
                f"{self.spatial_dims} spatial dimensions for {self.network_name}."
            )
        if self.spatial_dims == 2 and prediction.shape[1] not in (1, 3):
            raise GeometryError(
                f"{self.network_name} takes 1 or 3 channels, got {prediction.shape[1]}; compare channel by channel."
            )
        first = next(self.parameters(), None)
        if first is not None and first.device != prediction.device:
            self.to(prediction.device)
        with torch.autocast(prediction.device.type, enabled=False):
            # The mapped copies are what MONAI may normalise in place; the caller's tensors stay as they are.
            a, b = to_unit_range(prediction.float()), to_unit_range(target.float())
            if self.spatial_dims == 3 and bool((a.detach().std() == 0) | (b.std() == 0)):
                return prediction.float().sum() * 0
            return self.distance(a, b)


def to_unit_range(image: Tensor) -> Tensor:
    """Map [-1, 1] to [0, 1] in a new tensor of the same shape."""
    return (image + 1) / 2


def _choose_network(spatial_dims: int, network: str | None) -> str:
    fitting = [name for name, entry in PERCEPTUAL_NETWORKS.items() if entry.spatial_dims == spatial_dims]
    if not fitting:
        raise ConfigError(f"spatial_dims={spatial_dims!r} is not supported; choose 2 or 3.")
    if network is None:
        return fitting[0]
    if network not in fitting:
        raise ConfigError(
            f"Perceptual network {network!r} does not fit spatial_dims={spatial_dims}; choose {', '.join(fitting)}."
        )
    return network


def _check_files(folder: Path, network: str) -> None:
    entry = PERCEPTUAL_NETWORKS[network]
    expected = [f"{_CODE}/hubconf.py", f"{_CODE}/{entry.code}", entry.weights]
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"The perceptual network {network!r} needs files in {folder} that are missing: {', '.join(missing)}. "
            f"Nothing is downloaded. Unpack {_CODE_SOURCE} (branch main) there as {_CODE}/ and put the weights "
            f"{Path(entry.weights).name} from {_WEIGHTS_SOURCE} at {entry.weights}."
        )


@contextmanager
def _hub_folder(folder: Path) -> Iterator[None]:
    """Use a folder as ``torch.hub``'s for the moment; MONAI would leave it changed for the whole process."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder))
    try:
        yield
    finally:
        torch.hub.set_dir(before)

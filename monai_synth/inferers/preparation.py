"""A trained generator made ready to be applied, as fast as the machine can."""

from typing import Any

import torch
from torch import Tensor, nn

from monai_synth.checkpoints import unwrapped
from monai_synth.errors import ConfigError
from monai_synth.networks import fold_spectral_norm
from monai_synth.networks.compiler import require_compiler

__all__ = ["PreparedNetwork", "prepare_for_inference"]

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def prepare_for_inference(network: nn.Module, *, precision: str = "fp32", compile: bool = False) -> "PreparedNetwork":
    """Copy a generator in evaluation mode, with what inference does not need taken away.

    The spectral norms are folded into the weights and the weights lie channels-last, which changes nothing but
    rounding (fp32: outputs within 1e-5). ``make bench-training`` measures the times.

    Args:
        network: trained; it stays as it is.
        precision: ``"fp32"``; or ``"bf16"``, where convolutions have weights and compute in bfloat16 (norms keep
            float32 parameters). That is two to three times as fast on CPUs with bfloat16, and not exact: on outputs in
            [-1, 1] mean errors of 0.001 (U-Net with batch norm) to 0.014 (pix2pixHD) were measured, which is 1.5 to 21
            HU in a window of 3000 HU. Check it on your own model before numbers are taken from its images.
        compile: run as code compiled for constant weights (``torch.compile`` with freezing, which also folds batch
            norms). The first call with each size of input, batch included, takes 5 to 60 s; worth it where hundreds of
            slices of one size follow.

    Returns:
        A network to call like ``network``, with its attributes that inferers read; outputs are float32. It cannot be
        trained, and what is trained later does not reach it.

    Raises:
        ConfigError: for an unknown precision, or where nothing can be compiled.
    """
    if precision not in _PRECISIONS:
        raise ConfigError(
            f"precision={precision!r} is unknown for inference; choose one of {', '.join(map(repr, _PRECISIONS))}."
        )
    if compile:
        require_compiler(next((p.device for p in network.parameters()), torch.device("cpu")))
    return PreparedNetwork(network, dtype=_PRECISIONS[precision], is_compiled=compile)


class PreparedNetwork(nn.Module):
    """What :func:`prepare_for_inference` makes."""

    def __init__(self, network: nn.Module, *, dtype: torch.dtype, is_compiled: bool) -> None:
        super().__init__()
        folded = fold_spectral_norm(unwrapped(network)).requires_grad_(False)
        weights = [p for layer in folded.modules() if isinstance(layer, _LAYERS) for p in layer.parameters()]
        for weight in weights:
            weight.data = weight.data.to(dtype)
        # The rank of the weights says whether it sees images or volumes.
        if {weight.ndim for weight in weights} <= {1, 2, 4}:
            folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = folded
        self.dtype = dtype
        for name in ("stride", "min_size", "noise_channels", "in_channels", "spatial_dims"):
            if isinstance(value := getattr(folded, name, None), int):
                setattr(self, name, value)
        self._run: Any = torch.compile(folded, options={"freezing": True}, dynamic=False) if is_compiled else folded
        self.eval()

    def train(self, mode: bool = True) -> "PreparedNetwork":
        """Stay in evaluation mode.

        Raises:
            ConfigError: if it is to be trained.
        """
        if mode:
            raise ConfigError(
                "A network that was prepared for inference has folded weights and cannot be trained. Train the network "
                "that it was made from, and prepare that again."
            )
        return super().train(mode)

    @torch.no_grad()
    def forward(self, condition: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Run the network.

        Args:
            condition: ``(B, C, *spatial)``, float32.
            arguments: further ones, such as the noise; as the network takes them.
            options: likewise.

        Returns:
            As the network, in float32.
        """
        is_reduced = self.dtype is not torch.float32
        with torch.autocast(condition.device.type, torch.bfloat16, enabled=is_reduced):
            out: Tensor = self._run(condition, *arguments, **options)
        return out.float()

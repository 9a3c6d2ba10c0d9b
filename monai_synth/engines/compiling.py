"""``torch.compile`` as a switch."""

from typing import Any, TypeVar

import torch
from torch import nn

from monai_synth.handlers import is_true
from monai_synth.networks.compiler import require_compiler

Network = TypeVar("Network", bound=nn.Module)


def compile_player(network: Network, enabled: bool | str = True, **options: Any) -> Network:
    """Let a network run as compiled code from its first call on.

    The network itself is given back, so that checkpoints, averages and importers see the names they know. What is
    called other than ``network(...)``, such as a method that gives features, runs as before. On CPUs it does not pay
    for training (70 to 190 s of compiling, x 0.9 to 1.2 afterwards); measure on your GPU. Each size of the input,
    training and evaluation, and a frozen and a trained discriminator are compiled separately.

    Args:
        network: on its device, before it is wrapped for distributed training.
        enabled: ``False``, or the word that a command line gives, leaves it as it is.
        **options: of ``torch.compile``, such as ``mode="max-autotune"`` or ``dynamic=True``.

    Raises:
        ConfigError: if code for this device cannot be compiled here, or an option is unknown.
    """
    if not is_true(enabled, "compile"):
        return network
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    require_compiler(device, **options)
    network.compile(**options)
    return network

"""Players of several networks, and networks inside their wrappers."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from monai_synth.errors import ConfigError, GeometryError

__all__ = ["bare", "check_prediction", "member"]


def bare(network: nn.Module) -> nn.Module:
    """Take off the DDP wrapper, for a turn in which a network is frozen: its gradients need no synchronisation."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def member(player: nn.Module, name: str) -> nn.Module:
    """Find one network of a player.

    Args:
        player: an ``nn.ModuleDict``, whose networks may be DDP-wrapped one by one, or a network that plays alone.
        name: key in the ``nn.ModuleDict``.

    Raises:
        ConfigError: if the player was wrapped as a whole: DDP then has no forward to wait for.
    """
    if isinstance(player, nn.ModuleDict):
        return player[name]
    if isinstance(player, DistributedDataParallel) and isinstance(player.module, nn.ModuleDict):
        raise ConfigError(
            f"A player of several networks ({', '.join(player.module)}) was wrapped by DDP as a whole, which would not "
            "synchronise its gradients. Wrap each network (monai_synth.engines.distribute) and then make the objective."
        )
    return player


def check_prediction(pred: Tensor, target: Tensor) -> None:
    """Refuse a prediction that has not the shape of its target.

    Raises:
        GeometryError: naming both shapes.
    """
    if pred.shape != target.shape:
        raise GeometryError(
            f"The prediction has shape {list(pred.shape)} and the target {list(target.shape)}; they must be equal. "
            "Check out_channels of the generator and the roles of the manifest."
        )

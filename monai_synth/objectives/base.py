"""What an engine expects of a training objective.

The engine owns the loop: optimisers, precision, accumulation, DDP, resume. The objective owns the mathematics: which
networks play, in which order, and what each of them minimises.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Mapping[str, Any]
Output = Mapping[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """One method of training.

    Attributes:
        players: networks in the order of their updates. An engine may replace a network by its DDP-wrapped twin.
    """

    players: dict[str, nn.Module]

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        """Run the generator once; the result holds at least ``"pred"`` ``(B, C, *spatial)`` in [-1, 1]."""
        ...

    def losses(self, player: str, batch: Batch, out: Output) -> dict[str, Tensor]:
        """Named scalars, already weighted, whose sum ``player`` minimises in its turn."""
        ...

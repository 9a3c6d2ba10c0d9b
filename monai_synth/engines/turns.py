"""Whose turn it is in an iteration, and what is frozen meanwhile."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from monai_synth.errors import ConfigError


@dataclass(frozen=True)
class Turn:
    """One iteration's place in a group of accumulated gradients.

    Attributes:
        players: those whose losses are computed.
        opens: gradients of earlier groups are cleared.
        closes: the optimisers step.
        size: number of batches in the group.
    """

    players: tuple[str, ...]
    opens: bool
    closes: bool
    size: int


class Turns:
    """The plan of a training; it depends on the number of the iteration only, so that a resume needs no state.

    Args:
        players: in the order of their updates.
        accumulation_steps: number of batches whose gradients are averaged before a step; an incomplete group at the
            end of an epoch is averaged over its own number of batches.
        intervals: a player with interval ``n`` takes its turn in every n-th group only, the first time in group ``n``;
            groups are counted through all epochs.

    Raises:
        ConfigError: for a number below 1, a name that is no player, or if all players would pause at once.
    """

    def __init__(
        self, players: Sequence[str], *, accumulation_steps: int = 1, intervals: Mapping[str, int] | None = None
    ) -> None:
        if accumulation_steps < 1:
            raise ConfigError(f"accumulation_steps={accumulation_steps}: must be 1 or more.")
        self.players = tuple(players)
        self.accumulation_steps = accumulation_steps
        self.intervals = dict.fromkeys(players, 1) | dict(intervals or {})
        if unknown := sorted(self.intervals.keys() - set(players)):
            raise ConfigError(
                f"player_intervals names {unknown[0]!r}, but the players are {', '.join(map(repr, players))}."
            )
        for name, interval in self.intervals.items():
            if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
                raise ConfigError(
                    f"player_intervals: {name!r} has {interval!r}; choose a whole number of 1 or more (3: two turns "
                    "are left out, the third is taken)."
                )
        if min(self.intervals.values(), default=1) > 1:
            raise ConfigError(
                f"player_intervals={self.intervals}: with every player above 1 there would be iterations in which "
                "nothing is trained. Leave the most frequent player at 1."
            )

    def at(self, iteration: int, epoch_length: int) -> Turn:
        """Plan of one iteration.

        Args:
            iteration: from 1, through all epochs.
            epoch_length: batches an epoch.
        """
        epochs, index = divmod(iteration - 1, epoch_length)
        group, position = divmod(index, self.accumulation_steps)
        size = min(self.accumulation_steps, epoch_length - (index - position))
        groups_an_epoch = -(-epoch_length // self.accumulation_steps)
        number = epochs * groups_an_epoch + group + 1
        players = tuple(name for name in self.players if number % self.intervals[name] == 0)
        return Turn(players, opens=position == 0, closes=position == size - 1, size=size)


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Compute no gradients for the parameters of some networks; gradients still pass through them."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

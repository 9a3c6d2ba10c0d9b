"""Players that take their turn less often than others."""

from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn

from monai_synth.engines.turns import Turns, frozen
from monai_synth.errors import ConfigError
from monai_synth.handlers import EMA


def test_an_interval_counts_groups_through_epochs_also_incomplete_ones() -> None:
    turns = Turns(["d", "g"], accumulation_steps=2, intervals={"g": 2})
    # Five batches an epoch: groups of two, two and one.
    found = [turns.at(iteration, 5) for iteration in range(1, 11)]
    assert [turn.size for turn in found] == [2, 2, 2, 2, 1] * 2
    assert [turn.opens for turn in found] == [True, False, True, False, True] * 2
    assert [turn.closes for turn in found] == [False, True, False, True, True] * 2
    assert ["g" in turn.players for turn in found] == [False] * 2 + [True] * 2 + [False] + [True] * 2 + [False] * 2 + [
        True
    ]
    assert all("d" in turn.players for turn in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps=0"),
        ({"intervals": {"x": 2}}, "names 'x', but the players are 'd', 'g'"),
        ({"intervals": {"g": 0}}, "'g' has 0; choose a whole number"),
        ({"intervals": {"g": 1.5}}, "'g' has 1.5"),
        ({"intervals": {"g": 2, "d": 3}}, "nothing is trained"),
    ],
)
def test_plans_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Turns(["d", "g"], **options)


def test_freezing_leaves_what_was_frozen_before() -> None:
    layer = nn.Linear(1, 1)
    layer.bias.requires_grad_(False)
    with frozen([layer]):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


def _weight(trainer: Any, player: str) -> torch.Tensor:
    return next(trainer.objective.players[player].parameters()).detach().clone()


def test_a_pausing_player_keeps_its_weights_and_costs_no_memory(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=2, player_intervals={"generator": 3})
    ema = EMA(trainer.objective.players["generator"], decay=0.0)
    ema.attach(trainer)
    generated = trainer.objective.generate
    seen: list[tuple[bool, bool, bool, bool, bool, int]] = []
    before: dict[str, torch.Tensor] = {}
    kept: list[bool] = []

    def generate(batch: Any) -> Any:
        out = generated(batch)
        kept.append(out["pred"].requires_grad)
        return out

    def remember(_: Any) -> None:
        before.update({name: _weight(trainer, name) for name in trainer.objective.players})

    def compare(engine: Any) -> None:
        moved = {name: not torch.equal(before[name], _weight(trainer, name)) for name in before}
        names = engine.state.output.keys()
        seen.append(
            (moved["discriminator"], moved["generator"], "d_real" in names, "g_gan" in names, kept[-1], ema._num_steps)
        )

    trainer.objective.generate = generate
    trainer.add_event_handler(Events.ITERATION_STARTED, remember)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, compare)
    trainer.run()
    turn = [iteration % 3 == 0 for iteration in range(1, 11)]
    assert seen == [(True, is_turn, True, is_turn, is_turn, n // 3) for n, is_turn in enumerate(turn, start=1)]


def test_pausing_is_the_same_as_training_on_every_nth_batch(make_trainer: Any) -> None:
    """With nothing in common, two players do not notice each other's pauses."""

    class Apart:
        def __init__(self) -> None:
            torch.manual_seed(0)
            self.players = {"one": nn.Conv2d(1, 1, 3, padding=1), "two": nn.Conv2d(1, 1, 3, padding=1)}

        def generate(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"pred": batch["condition"]}

        def losses(self, player: str, batch: Any, out: Any) -> dict[str, torch.Tensor]:
            return {f"{player}_l2": (self.players[player](batch["condition"]) - batch["target"]).square().mean()}

    batches = list(make_trainer().data_loader)[:4]

    def train(chosen: list[Any], **options: Any) -> nn.Module:
        objective = Apart()
        optimizers = {name: torch.optim.Adam(net.parameters(), lr=0.1) for name, net in objective.players.items()}
        trainer = make_trainer(objective=objective, optimizers=optimizers, loader=chosen, max_epochs=1, **options)
        trainer.run()
        return objective.players["two"]

    pausing = train(batches, player_intervals={"two": 2})
    alone = train(batches[1::2])
    assert torch.equal(pausing.weight, alone.weight)


def test_the_order_is_the_objectives_not_that_of_the_optimisers(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1)
    swapped = dict(reversed(trainer.optimizers.items()))
    trainer = make_trainer(objective=trainer.objective, optimizers=swapped, max_epochs=1)
    assert list(trainer.optimizers) == ["discriminator", "generator"]

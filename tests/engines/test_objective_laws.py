"""What every objective owes its user: sentences for bad input, and the same result from pieces of a batch."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.nn import functional

from monai_synth.engines import SynthesisTrainer
from monai_synth.errors import ConfigError, DivergenceError
from monai_synth.handlers import TrainingCheckpoint
from tests.engines.on_ranks import in_double
from tests.engines.tiny_objectives import BUILDERS, NUM_LABELS, SPECTRAL, UNPAIRED, Items, build, kind_of, make_batches

PAIRED = [name for name in BUILDERS if name not in UNPAIRED]  # USIS because it is built with supervised=True
LABELLED = [name for name in BUILDERS if kind_of(name) == "labels"]
# Nobody's loss depends on the step of another player in the same iteration.
FROM_ONE_FORWARD = ("pix2pixhd", "cyclegan")


def make_trainer(objective: Any, batches: Any, *, rate: float = 1e-3, **options: Any) -> SynthesisTrainer:
    return SynthesisTrainer(
        device="cpu",
        train_data_loader=batches,
        objective=objective,
        optimizers={name: torch.optim.SGD(p.parameters(), lr=rate) for name, p in objective.players.items()},
        **{"max_epochs": 1, **options},
    )


def in_batches(items: Items, batch_size: int = 2) -> Any:
    return torch.utils.data.DataLoader(items, batch_size=batch_size)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRED)
def test_targets_of_other_cases_are_refused_by_id(name: str) -> None:
    class Shuffled(Items):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item, other = super().__getitem__(index), super().__getitem__((index + 1) % len(self))
            return {**item, "target": other["target"], "target_case_id": other["case_id"]} if index else item

    trainer = make_trainer(build(name), in_batches(Shuffled(kind_of(name))))
    with pytest.raises(ConfigError, match=r"1 of 2 items .* different cases \(first: 'case1' and 'case2'\)"):
        trainer.run()


@pytest.mark.parametrize("name", UNPAIRED)
def test_unpaired_methods_take_targets_of_other_cases(name: str) -> None:
    (batch,) = make_batches(name, batch_size=2, num_batches=1)
    make_trainer(build(name, wrap=in_double), [{**batch, "target_case_id": ["x", "y"]}]).run()


@pytest.mark.parametrize("present", [0, 2])
@pytest.mark.parametrize("name", LABELLED)
def test_a_batch_of_one_class_trains(name: str, present: int) -> None:
    (batch,) = make_batches(name, batch_size=2, num_batches=1)
    labels = torch.full((2, 32, 64), present)
    batch["condition"] = functional.one_hot(labels, NUM_LABELS).movedim(-1, 1).double()
    batch["instances"] = labels.unsqueeze(1)
    trainer = make_trainer(build(name, wrap=in_double), [batch] * 3)
    trainer.run()
    losses = [value for name, value in trainer.state.output.items() if name[:2] in ("g_", "d_", "s_")]
    assert len(losses) >= 4
    assert all(value.isfinite() for value in losses)
    assert all(p.isfinite().all() for player in trainer.objective.players.values() for p in player.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_players_and_optimisers_must_match(name: str) -> None:
    objective = build(name)
    sgd = {player: torch.optim.SGD(network.parameters(), lr=0.1) for player, network in objective.players.items()}
    first = next(iter(sgd))
    for given in ({k: v for k, v in sgd.items() if k != first}, {**sgd, "critic": sgd[first]}):
        with pytest.raises(ConfigError, match="exactly one optimiser to each player"):
            SynthesisTrainer(
                device="cpu", max_epochs=1, train_data_loader=[], objective=objective, optimizers=given
            )  # fmt: skip


@pytest.mark.parametrize("name", BUILDERS)
def test_parameters_that_no_loss_reaches_are_named_at_the_first_step_and_no_others(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    batches = in_batches(Items(kind_of(name), num_items=2))
    make_trainer(build(name), batches).run()
    assert "no gradient" not in caplog.text
    objective = build(name)
    for network in objective.players.values():
        network.register_module("forgotten", nn.Linear(2, 3))
    with caplog.at_level(logging.WARNING):
        make_trainer(objective, batches).run()
    for player in objective.players:
        assert (
            f"parameters of the {player} got no gradient in its first turn: forgotten.weight, forgotten" in caplog.text
        )


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loss_that_is_not_finite_names_term_and_cases_and_a_checkpoint_from_before(name: str, tmp_path: Path) -> None:
    class Poisoned(Items):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            return item | {"target": item["target"] * torch.nan} if (self.epoch, index) == (2, 3) else item

    objective = build(name)
    trainer = make_trainer(objective, in_batches(Poisoned(kind_of(name), num_items=4)), rate=1e-6, max_epochs=2)
    checkpoint = TrainingCheckpoint(tmp_path, dict(objective.players))
    checkpoint.attach(trainer)
    checkpoint.start(trainer)
    message = (
        r"A loss of the \w+ is not finite at epoch 2, iteration 4 \(.*\w+ = nan.*; cases case2, case3\).*from before"
    )
    with pytest.raises(DivergenceError, match=message):
        trainer.run()
    saved = torch.load(checkpoint.file, weights_only=True)
    assert (saved["epoch"], saved["iteration"]) == (1, 2)
    assert all(p.isfinite().all() for player in objective.players.values() for p in player.parameters())


@pytest.mark.parametrize("is_quirk", [False, True])
def test_labelmix_is_the_published_one_where_it_is_asked_to(is_quirk: bool) -> None:
    """Class 0 drew "real" and class 1 "synthetic": written into the label map itself, the one undoes the other."""
    (batch,) = make_batches("oasis", batch_size=1, num_batches=1)
    objective = build(
        "oasis", wrap=in_double, labelmix_quirk=is_quirk, draw_labelmix=lambda labels: torch.tensor([1, 0])
    )
    seen: list[torch.Tensor] = []
    objective.players["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    objective.losses("discriminator", batch, objective.generate(batch))
    fake, real, mixed = seen
    expected = fake if is_quirk else torch.where(batch["condition"][:, :1] == 1, real, fake)
    assert torch.equal(mixed, expected)


# --- pieces of a batch -----------------------------------------------------------------------------------------------


def in_pieces(name: str, *, batch_size: int, rate: float, **options: Any) -> SynthesisTrainer:
    """Four cases in batches whose gradients are accumulated to those of two, in double precision."""
    if name in SPECTRAL:
        options["use_spectral_norm"] = False  # its vectors move with every pass
    if name in ("oasis", "usis"):
        options.setdefault("balance", False)
    if name == "usis":
        options["r1_interval"] = 1
    objective = build(name, wrap=in_double, is_per_image=True, **options)
    batches = make_batches(name, batch_size=batch_size, num_batches=4 // batch_size)
    trainer = make_trainer(objective, batches, rate=rate, accumulation_steps=2 // batch_size, max_epochs=2)
    trainer.run()
    return trainer


def gaps(one: SynthesisTrainer, other: SynthesisTrainer, player: str, *, of: str) -> float:
    """Greatest difference of weights or gradients of a player, in units of the greatest of them."""
    pairs = zip(*(t.objective.players[player].parameters() for t in (one, other)), strict=True)
    values = [(p, q) if of == "weights" else (p.grad, q.grad) for p, q in pairs]
    assert all((p is None) == (q is None) for p, q in values)
    found = [(p.detach(), q.detach()) for p, q in values if p is not None]
    return (max((p - q).abs().max() for p, q in found) / max(p.abs().max() for p, _ in found)).item()


@pytest.mark.parametrize("name", BUILDERS)
def test_accumulated_gradients_are_those_of_the_large_batch(name: str) -> None:
    large, small = (in_pieces(name, batch_size=size, rate=0.0) for size in (2, 1))
    for player in large.objective.players:
        assert gaps(large, small, player, of="gradients") < 1e-5, player


@pytest.mark.parametrize("name", FROM_ONE_FORWARD)
def test_where_all_losses_come_from_one_forward_so_are_the_trainings(name: str) -> None:
    large, small, start = (in_pieces(name, batch_size=size, rate=rate) for size, rate in ((2, 1e-2), (1, 1e-2), (2, 0)))
    for player in large.objective.players:
        assert gaps(large, small, player, of="weights") < 1e-6, player
        assert gaps(large, start, player, of="weights") > 1e-4, player


def test_within_a_group_later_players_are_judged_by_those_that_have_not_stepped_yet() -> None:
    """Pix2pix: the first of two accumulated batches cannot meet the discriminator that both will make."""

    def step(batch_size: int, rate_of_discriminator: float = 1.0) -> SynthesisTrainer:
        objective = build("pix2pix", wrap=in_double, is_per_image=True)
        rates = {"discriminator": rate_of_discriminator, "generator": 1e-2}
        trainer = SynthesisTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=make_batches("pix2pix", batch_size=batch_size, num_batches=2 // batch_size),
            objective=objective,
            optimizers={k: torch.optim.SGD(p.parameters(), lr=rates[k]) for k, p in objective.players.items()},
            accumulation_steps=2 // batch_size,
        )
        trainer.run()
        return trainer

    large, small, idle = step(2), step(1), step(2, rate_of_discriminator=0.0)
    assert gaps(large, small, "discriminator", of="weights") < 1e-6
    assert gaps(large, small, "generator", of="gradients") > 1e-4
    # Half of the group met the discriminator after its step, half before.
    for p, before, after in zip(
        *(trainer.objective.players["generator"].parameters() for trainer in (small, idle, large)), strict=True
    ):
        assert (p.grad - before.grad).abs().max() <= (after.grad - before.grad).abs().max() * 2


@pytest.mark.parametrize("name", ["oasis", "usis"])
def test_classes_are_balanced_in_each_accumulated_batch_by_itself(name: str) -> None:
    large, small = (in_pieces(name, batch_size=size, rate=0.0, balance=True) for size in (2, 1))
    assert gaps(large, small, "generator", of="gradients") > 1e-2


@pytest.mark.parametrize("name", BUILDERS)
def test_half_precision_accumulation_clipping_and_pauses_go_together(name: str) -> None:
    objective = build(name)
    *_, last = objective.players
    trainer = make_trainer(
        objective,
        in_batches(Items(kind_of(name), num_items=8)),
        precision="fp16",
        accumulation_steps=2,
        clip_norm=1e-2,
        player_intervals={last: 2},
    )
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-8)  # so low that no step is left out
    norms: dict[str, list[float]] = {player: [] for player in objective.players}
    for player, optimizer in trainer.optimizers.items():
        network = objective.players[player]

        def note(*_: Any, player: str = player, network: nn.Module = network) -> None:
            gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            norms[player].append(torch.linalg.vector_norm(torch.cat(gradients)).item())

        optimizer.register_step_pre_hook(note)
    stepped: list[tuple[str, ...]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: stepped.append(e.state.stepped_players))
    trainer.run()
    everyone = tuple(objective.players)
    assert stepped == [(), everyone[:-1], (), everyone]
    assert [len(norms[player]) for player in everyone] == [2] * (len(everyone) - 1) + [1]
    assert all(norm <= 1e-2 * 1.001 for found in norms.values() for norm in found)
    assert any(norm > 1e-2 * 0.999 for found in norms.values() for norm in found), "something was clipped"
    assert all(p.isfinite().all() for network in objective.players.values() for p in network.parameters())

"""The training loop that every synthesis method shares.

The engine owns the loop (precision, gradient accumulation, clipping, events); an objective owns the mathematics.
MONAI's ``AdversarialTrainer`` takes the *input* as the real image and hides the labels from the losses, so it cannot
train a conditional model; this one subclasses MONAI's ``Trainer`` and fires the usual events, so MONAI and Ignite
handlers work on it unchanged.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from torch import Tensor
from torch.optim import Optimizer

from monai_synth.engines.batches import prepare_synthesis_batch
from monai_synth.engines.distributed import stop_process_group
from monai_synth.engines.epoch_batches import EpochBatches
from monai_synth.engines.gradients import clip_gradients, gradient_norm, name_nonfinite, warn_of_unreached
from monai_synth.engines.memory_reuse import reused_memory
from monai_synth.engines.turns import Turn, Turns, frozen
from monai_synth.errors import ConfigError, DivergenceError
from monai_synth.handlers import share_buffers
from monai_synth.handlers.outputs import unpack_single
from monai_synth.objectives import Objective

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Loss scaling starts at 65536 and halves where gradients overflow; so far down, they do at any scale.
_SMALLEST_SCALE = 2.0**-20


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Data type of automatic mixed precision; ``None`` for full precision.

    Args:
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ConfigError: for any other word.
    """
    if precision not in _PRECISIONS:
        raise ConfigError(f"precision={precision!r} is unknown. Choose one of {', '.join(map(repr, _PRECISIONS))}.")
    return _PRECISIONS[precision]


class SynthesisTrainer(Trainer):
    """Trains the players of an objective in turn, on batches of conditions and targets.

    One iteration: one ``objective.generate``; then, for each player in the objective's order, its losses, a backward
    pass that reaches only this player, and (every ``accumulation_steps`` batches) one step of its optimiser. Losses are
    summed in float32 whatever the precision of the networks.

    ``engine.state.output`` holds the batch's ``condition``, ``target`` and ``pred``, every named loss, and their sum as
    ``loss`` (which MONAI's loggers and ``--tracking mlflow`` read). ``engine.state.is_step`` says whether optimisers
    have stepped, ``engine.state.stepped_players`` whose.

    A loss or a gradient that is not finite ends the training before it reaches the weights. (Under fp16 a gradient that
    overflows leaves out one step and lowers the scale instead, as usual.)

    Args:
        device: where the batches go; the players must be there already.
        max_epochs: number of epochs in all, those before a resume included.
        train_data_loader: yields dictionaries with ``condition``, ``target`` and, where the objective wants it,
            ``mask``.
        objective: the method, see ``monai_synth.objectives``. If it has ``start_epoch(epoch)``, that is called at the
            start of every epoch, from 1.
        optimizers: one for each player, under the player's name.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (autocast on the device at hand; fp16 with loss scaling).
        accumulation_steps: number of batches whose gradients are averaged before a step; an incomplete group at the
            end of an epoch is averaged over its own number of batches. Gradients are those of the large batch, if its
            images do not meet (batch norm, class balance); but in a group the later players meet the earlier ones as
            they are before their step, in all batches but the last. With Pix2PixHD and CycleGan, where no turn waits
            for another's step, the training is the same.
        clip_norm: largest L2 norm of a player's gradient; ``None`` does not clip.
        player_intervals: players that take their turn less often, see :class:`monai_synth.engines.turns.Turns`:
            ``{"generator": 5}`` are five steps of the discriminator to one of the generator.
        prepare_batch: moves a batch to the device.
        postprocessing, key_train_metric, additional_metrics, train_handlers: as in MONAI's trainers.
        decollate: split outputs into items, as ``postprocessing`` needs; off by default. Metrics work without:
            MONAI's take ``from_engine(["pred", "target"])`` of the whole batch.

    Raises:
        ConfigError: if players and optimisers do not match, or no loss of a player depends on its weights.
        DivergenceError: during training, when a loss or gradient is not finite; names the term, the cases of the batch
            and the checkpoint to resume from.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable[Mapping[str, Any]],
        objective: Objective,
        optimizers: Mapping[str, Optimizer],
        precision: str = "fp32",
        accumulation_steps: int = 1,
        clip_norm: float | None = None,
        player_intervals: Mapping[str, int] | None = None,
        prepare_batch: Callable[..., dict[str, Any]] = prepare_synthesis_batch,
        postprocessing: Callable[..., Any] | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        train_handlers: Sequence[Any] | None = None,
        decollate: bool = False,
    ) -> None:
        self.objective = objective
        self.optimizers = dict(optimizers)
        self.precision = precision
        self.accumulation_steps = accumulation_steps
        self.clip_norm = clip_norm
        dtype = autocast_dtype(precision)
        self._dtype = dtype
        # Named unlike `scaler`, which MONAI's Trainer.run() overwrites.
        self.grad_scaler = torch.amp.GradScaler(torch.device(device).type, enabled=dtype is torch.float16)
        self._check_ownership()
        self.optimizers = {name: self.optimizers[name] for name in objective.players}  # in the objective's order
        self._turns = Turns(list(objective.players), accumulation_steps=accumulation_steps, intervals=player_intervals)
        self.player_intervals = self._turns.intervals
        self._reached: set[str] = set()
        self._batches = EpochBatches(train_data_loader)
        # Replaced by who can save the state, such as TrainingCheckpoint.
        self.stop_signal: AbstractContextManager[object] = nullcontext()
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            non_blocking=True,
            prepare_batch=prepare_batch,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            handlers=train_handlers,
            decollate=decollate,
        )
        self.state.is_step, self.state.stepped_players = False, ()
        self.state.last_checkpoint, self.state.stopped_by = None, ""
        for player in self.objective.players.values():
            self.add_event_handler(Events.EPOCH_COMPLETED, lambda _, player=player: share_buffers(player))
        dataset: Any = getattr(train_data_loader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            # Augmentation is drawn from (seed, epoch, index), so that it does not depend on the number of workers.
            self.add_event_handler(Events.EPOCH_STARTED, lambda engine: dataset.set_epoch(engine.state.epoch))
        start_epoch = getattr(objective, "start_epoch", None)
        if start_epoch is not None:
            # A function of the epoch alone, so that a resumed training needs nothing else.
            self.add_event_handler(Events.EPOCH_STARTED, lambda engine: start_epoch(engine.state.epoch))
        # Ignite's own logger repeats at INFO what the progress bar and the history say.
        self.logger.setLevel(logging.WARNING)

    def run(self) -> None:
        """Train until ``max_epochs``; does nothing when a resumed training is complete already.

        On the CPU the process meanwhile keeps the memory that it frees, see
        :func:`monai_synth.engines.memory_reuse.reused_memory`.

        Raises:
            SystemExit: with code 0, after a signal to stop was obeyed and the state saved.
        """
        if self.state.epoch >= self.state.max_epochs:
            return
        if self.state.epoch_length is None:
            raise ConfigError("The data loader has no length, so epochs have no end. Use a map-style data set.")
        if self.state.epoch_length == 0:
            raise ConfigError("The data loader is empty: fewer training slices than one batch? Lower the batch size.")
        with self.stop_signal, reused_memory(self.state.device.type == "cpu"):
            # Not Trainer.run(), which would make a CUDA-only scaler anew.
            Engine.run(self, data=self._batches, max_epochs=self.state.max_epochs)
        if self.state.stopped_by:
            stop_process_group()
            raise SystemExit(0)

    def skip_batches(self, num_batches: int, then: Callable[[], object]) -> None:
        """Leave out the first batches of the next epoch, which were seen before a resume.

        Args:
            num_batches: how many.
            then: called before the first other one is loaded.
        """
        self._batches.skip(num_batches, then)

    def _register_handlers(self, handlers: Sequence[Any]) -> None:
        for handler in handlers:
            if callable(getattr(handler, "output_transform", None)):
                handler.output_transform = unpack_single(handler.output_transform)
        super()._register_handlers(handlers)

    def _check_ownership(self) -> None:
        players = self.objective.players
        if players.keys() != self.optimizers.keys():
            raise ConfigError(
                f"The objective's players are {sorted(players)}, but optimisers were given for "
                f"{sorted(self.optimizers)}. "
                "Give exactly one optimiser to each player."
            )
        for name, player in players.items():
            owned = {id(p) for group in self.optimizers[name].param_groups for p in group["params"]}
            lost = [key for key, p in player.named_parameters() if p.requires_grad and id(p) not in owned]
            if lost:
                raise ConfigError(
                    f"{len(lost)} parameter(s) of player {name!r} are in no optimiser (first: {lost[0]!r}), so they "
                    f"would never be trained. Build the optimiser from all parameters of the {name}."
                )

    def _iteration(self, engine: "SynthesisTrainer", batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One batch through every player whose turn it is, in the objective's order."""
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        turn = self._turns.at(self.state.iteration, self.state.epoch_length)
        named: dict[str, Tensor] = {}
        # Nothing is kept for the backward pass of a player that pauses.
        with frozen(module for name, module in self.objective.players.items() if name not in turn.players):
            with self._autocast():
                out = self.objective.generate(batch)
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            for player in turn.players:
                named |= self._take_turn(player, turn, batch, out)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if turn.closes and self.grad_scaler.is_enabled():
            self._update_scale(batchdata)

        self.state.is_step, self.state.stepped_players = turn.closes, turn.players if turn.closes else ()
        self.state.output = {
            "condition": batch["condition"],
            "target": batch.get("target"),
            "pred": out["pred"].detach(),
            "loss": torch.stack(list(named.values())).sum(),
            **named,
        }
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _take_turn(
        self, player: str, turn: Turn, batch: Mapping[str, Any], out: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses, backward pass and, where the turn closes, the step of one player."""
        optimizer = self.optimizers[player]
        if turn.opens:
            optimizer.zero_grad(set_to_none=True)
        with frozen(module for name, module in self.objective.players.items() if name != player):
            with self._autocast():
                losses = self.objective.losses(player, batch, out)
            total = torch.stack([term.float() for term in losses.values()]).sum()
            if not torch.isfinite(total):
                terms = ", ".join(f"{name} = {term.item():g}" for name, term in losses.items())
                raise self._divergence(f"A loss of the {player} is not finite", terms, batch)
            if not total.requires_grad:
                raise ConfigError(
                    f"No loss of the {player} ({', '.join(losses)}) depends on its weights, so it would never learn. "
                    "Check that the objective looks its networks up in `players` and does not detach what it judges."
                )
            self.grad_scaler.scale(total / turn.size).backward()
        if turn.closes:
            self._step(player, optimizer, batch)
        return {name: term.detach().float() for name, term in losses.items()}

    def _step(self, player: str, optimizer: Optimizer, batch: Mapping[str, Any]) -> None:
        network = self.objective.players[player]
        if player not in self._reached:
            self._reached.add(player)
            warn_of_unreached(player, network)
        is_scaled = self.grad_scaler.is_enabled()
        if self.clip_norm is not None or not is_scaled:
            self.grad_scaler.unscale_(optimizer)
            norm = gradient_norm(network)
            if not is_scaled and not torch.isfinite(norm):
                details = f"its losses are; parameters: {name_nonfinite(network)}"
                raise self._divergence(f"A gradient of the {player} is not finite", details, batch)
            if self.clip_norm is not None:
                clip_gradients(network, norm, self.clip_norm)
        self.grad_scaler.step(optimizer)

    def _update_scale(self, batch: Mapping[str, Any]) -> None:
        self.grad_scaler.update()
        if (scale := self.grad_scaler.get_scale()) < _SMALLEST_SCALE:
            raise self._divergence("Gradients are not finite in fp16 at any loss scale", f"scale {scale:g}", batch)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.state.device.type, dtype=self._dtype or torch.bfloat16, enabled=self._dtype is not None
        )

    def _divergence(self, what: str, details: str, batch: Mapping[str, Any]) -> DivergenceError:
        cases = ", ".join(sorted({str(case) for case in batch.get("case_id", ["?"])}))
        file = self.state.last_checkpoint
        saved = "No checkpoint was saved yet." if file is None else f"The last checkpoint, {file}, is from before."
        return DivergenceError(
            f"{what} at epoch {self.state.epoch}, iteration {self.state.iteration} ({details}; cases {cases}). {saved} "
            "Look at these cases with `monai-synth manifest check`, lower the learning rate, set clip_norm, or use "
            "precision='fp32'; then continue with --resume true, or anew."
        )

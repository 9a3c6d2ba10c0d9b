"""The training loop that every synthesis method shares.

The engine owns the loop (precision, gradient accumulation, clipping, events); an objective owns the mathematics.
MONAI's ``AdversarialTrainer`` takes the *input* as the real image and hides the labels from the losses, so it cannot
train a conditional model; this one subclasses MONAI's ``Trainer`` and fires the usual events, so MONAI and Ignite
handlers work on it unchanged.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_synth.engines.batches import prepare_synthesis_batch
from monai_synth.errors import ConfigError, DivergenceError
from monai_synth.handlers import share_buffers
from monai_synth.objectives import Objective

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    ``loss`` (which MONAI's loggers and ``--tracking mlflow`` read).

    Args:
        device: where the batches go; the players must be there already.
        max_epochs: number of epochs in all, those before a resume included.
        train_data_loader: yields dictionaries with ``condition``, ``target`` and, where the objective wants it,
            ``mask``.
        objective: the method, see ``monai_synth.objectives``.
        optimizers: one for each player, under the player's name.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` (autocast on the device at hand; fp16 with loss scaling).
        accumulation_steps: number of batches whose gradients are averaged before a step; an incomplete group at the
            end of an epoch is averaged over its own number of batches.
        clip_norm: largest L2 norm of a player's gradient; ``None`` does not clip.
        prepare_batch: moves a batch to the device.
        postprocessing, key_train_metric, additional_metrics, train_handlers: as in MONAI's trainers.
        decollate: split outputs into items, as ``postprocessing`` and metrics of MONAI need; off by default, because
            training uses neither.

    Raises:
        ConfigError: if players and optimisers do not match.
        DivergenceError: during training, when a loss is not finite; names the term and the cases of the batch.
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
        prepare_batch: Callable[..., dict[str, Any]] = prepare_synthesis_batch,
        postprocessing: Callable[..., Any] | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        train_handlers: Sequence[Any] | None = None,
        decollate: bool = False,
    ) -> None:
        if accumulation_steps < 1:
            raise ConfigError(f"accumulation_steps={accumulation_steps}: must be 1 or more.")
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
        for player in self.objective.players.values():
            self.add_event_handler(Events.EPOCH_COMPLETED, lambda _, player=player: share_buffers(player))
        dataset: Any = getattr(train_data_loader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            # Augmentation is drawn from (seed, epoch, index), so that it does not depend on the number of workers.
            self.add_event_handler(Events.EPOCH_STARTED, lambda engine: dataset.set_epoch(engine.state.epoch))
        # Ignite's own logger repeats at INFO what the progress bar and the history say.
        self.logger.setLevel(logging.WARNING)

    def run(self) -> None:
        """Train until ``max_epochs``; does nothing when a resumed training is complete already."""
        if self.state.epoch >= self.state.max_epochs:
            return
        if self.state.epoch_length == 0:
            raise ConfigError("The data loader is empty: fewer training slices than one batch? Lower the batch size.")
        Workflow.run(self)  # not Trainer.run(), which would make a CUDA-only scaler anew

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
        """One batch through every player, in the objective's order."""
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        is_first, is_last, group_size = self._accumulation()
        with self._autocast():
            out = self.objective.generate(batch)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)

        named: dict[str, Tensor] = {}
        for player, optimizer in self.optimizers.items():
            if is_first:
                optimizer.zero_grad(set_to_none=True)
            with self._turn_of(player):
                with self._autocast():
                    losses = self.objective.losses(player, batch, out)
                total = torch.stack([term.float() for term in losses.values()]).sum()
                self._refuse_nonfinite(player, losses, total, batchdata)
                self.grad_scaler.scale(total / group_size).backward()
            named |= {name: term.detach().float() for name, term in losses.items()}
            if is_last:
                self._step(player, optimizer)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if is_last:
            self.grad_scaler.update()

        self.state.is_step = is_last
        self.state.output = {
            "condition": batch["condition"],
            "target": batch.get("target"),
            "pred": out["pred"].detach(),
            "loss": torch.stack(list(named.values())).sum(),
            **named,
        }
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _accumulation(self) -> tuple[bool, bool, int]:
        """Whether this batch opens and closes a group of accumulated gradients, and the group's size."""
        index = (self.state.iteration - 1) % self.state.epoch_length
        position = index % self.accumulation_steps
        size = min(self.accumulation_steps, self.state.epoch_length - (index - position))
        return position == 0, position == size - 1, size

    def _step(self, player: str, optimizer: Optimizer) -> None:
        if self.clip_norm is not None:
            self.grad_scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.objective.players[player].parameters(), self.clip_norm)
        self.grad_scaler.step(optimizer)

    @contextmanager
    def _turn_of(self, player: str) -> Iterator[None]:
        """Freeze the other players, so that no gradient is computed for them."""
        frozen = [
            p
            for name, module in self.objective.players.items()
            if name != player
            for p in module.parameters()
            if p.requires_grad
        ]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.state.device.type, dtype=self._dtype or torch.bfloat16, enabled=self._dtype is not None
        )

    def _refuse_nonfinite(
        self, player: str, losses: Mapping[str, Tensor], total: Tensor, batchdata: Mapping[str, Any]
    ) -> None:
        if torch.isfinite(total):
            return
        terms = ", ".join(f"{name} = {term.item():g}" for name, term in losses.items())
        cases = sorted({str(c) for c in batchdata.get("case_id", ["?"])})
        raise DivergenceError(
            f"A loss of the {player} is not finite at epoch {self.state.epoch}, iteration {self.state.iteration} "
            f"({terms}; cases {', '.join(cases)}). The last checkpoint is from before. Look at these cases with "
            "`monai-synth manifest check`, lower the learning rate, set clip_norm, or use precision='fp32'."
        )

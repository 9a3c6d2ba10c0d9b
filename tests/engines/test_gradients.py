"""Gradients that are infinite or absent are found before they reach the weights."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError, DivergenceError
from tests.handlers.trainings import assemble


class _Root(torch.autograd.Function):
    """Zero, with the gradient that a square root has there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sum() * 0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.full((1, 1, 16, 16), torch.inf)


class _Fragile:
    """One player; its loss is finite always, its gradient until the given iteration."""

    def __init__(self, until: int = 10**9, *, unused: bool = False, detached: bool = False) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        self.players: dict[str, nn.Module] = {"generator": network}
        if unused:
            network.register_module("forgotten", nn.Linear(2, 3))
            network.forward = lambda x: network[1](network[0](x))  # type: ignore[method-assign]
        self.until = until
        self.detached = detached
        self.calls = 0

    def generate(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"pred": self.players["generator"](batch["condition"])}

    def losses(self, player: str, batch: Any, out: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        pred = out["pred"].detach() if self.detached else out["pred"]
        loss = (pred - batch["target"]).square().mean()
        return {"g_l2": loss, "g_root": _Root.apply(pred) if self.calls > self.until else loss * 0}


def _make(make_trainer: Any, objective: _Fragile, **options: Any) -> Any:
    optimizers = {"generator": torch.optim.Adam(objective.players["generator"].parameters(), lr=1e-3)}
    return make_trainer(objective=objective, optimizers=optimizers, batch_size=1, **options)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_found_and_the_checkpoint_is_from_before(
    make_trainer: Any, tmp_path: Path, clip_norm: float | None
) -> None:
    objective = _Fragile(until=12)  # nine batches an epoch
    trainer, checkpoint, _ = assemble(
        lambda **options: _make(make_trainer, objective, **options), tmp_path, clip_norm=clip_norm
    )
    checkpoint.start(trainer)
    message = (
        r"A gradient of the generator is not finite at epoch 2, iteration 13 \(its losses are; parameters: "
        r"0.weight, 0.bias, 1.weight and 1 more; cases case\d\). The last checkpoint, .*last.pt, is from before"
    )
    with pytest.raises(DivergenceError, match=message):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in objective.players["generator"].parameters())
    assert torch.load(checkpoint.file, weights_only=True)["epoch"] == 1


def test_without_a_checkpoint_the_message_says_so(make_trainer: Any) -> None:
    with pytest.raises(DivergenceError, match="iteration 1 .*No checkpoint was saved yet"):
        _make(make_trainer, _Fragile(until=0)).run()


def test_fp16_leaves_out_a_step_but_not_all_steps(make_trainer: Any) -> None:
    trainer = _make(make_trainer, _Fragile(until=16), precision="fp16", max_epochs=2)
    trainer.run()  # two overflows at the end
    assert trainer.grad_scaler.get_scale() < 2**16
    with pytest.raises(DivergenceError, match="not finite in fp16 at any loss scale"):
        _make(make_trainer, _Fragile(until=0), precision="fp16", max_epochs=10).run()


def test_parameters_that_no_loss_reaches_are_named_once(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _make(make_trainer, _Fragile(unused=True), max_epochs=2).run()
    found = [record.getMessage() for record in caplog.records if "no gradient" in record.getMessage()]
    assert found == [
        "2 of the 6 parameters of the generator got no gradient in its first turn: forgotten.weight, forgotten.bias. "
        "No loss reaches them, so they keep their start values."
    ]


def test_reached_parameters_are_not_warned_of(make_trainer: Any, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(max_epochs=1).run()
    assert "no gradient" not in caplog.text


def test_a_player_that_no_loss_reaches_is_refused(make_trainer: Any) -> None:
    with pytest.raises(ConfigError, match=r"No loss of the generator \(g_l2, g_root\) depends on its weights"):
        _make(make_trainer, _Fragile(detached=True)).run()

"""The fused Adam: that of the loop, in every layout; resumed bit by bit; under loss scaling; refusals."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.utils import set_determinism
from torch import nn

from monai_synth.engines import FusedAdam
from monai_synth.errors import ConfigError
from tests.handlers.trainings import assemble, assert_same, everything

LAYOUTS = {"rows": torch.contiguous_format, "channels_last": torch.channels_last}
OPTIONS = {"lr": 1e-2, "betas": (0.5, 0.999)}


def _weight(layout: str = "rows", shape: tuple[int, ...] = (6, 5, 3, 3)) -> nn.Parameter:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return nn.Parameter(values.contiguous(memory_format=LAYOUTS[layout]))


def _gradient(step: int, layout: str = "rows") -> torch.Tensor:
    values = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(10 + step))
    return values.contiguous(memory_format=LAYOUTS[layout])


def _reload(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"maximize": True}])
@pytest.mark.parametrize("of_gradient", LAYOUTS)
@pytest.mark.parametrize("of_weight", LAYOUTS)
def test_the_update_is_that_of_the_loop_in_every_layout(of_weight: str, of_gradient: str, options: Any) -> None:
    weight, twin = _weight(of_weight), _weight()
    ours = FusedAdam([weight], **OPTIONS, **options)
    loop = torch.optim.Adam([twin], foreach=False, fused=False, **OPTIONS, **options)
    for step in range(6):
        weight.grad, twin.grad = _gradient(step, of_gradient), _gradient(step)
        ours.step()
        loop.step()
    assert (twin - _weight()).abs().max() > 0.01
    torch.testing.assert_close(weight, twin, atol=1e-6, rtol=0)
    assert weight.stride() == _weight(of_weight).stride()


def test_torch_alone_takes_the_gradients_of_other_weights() -> None:
    # The reason for this class. Where this fails, torch has mended it.
    weight, twin = _weight("channels_last"), _weight("channels_last")
    for parameter, fused in ((weight, True), (twin, False)):
        parameter.grad = _gradient(0)
        torch.optim.Adam([parameter], fused=fused, **OPTIONS).step()
    assert (weight - twin).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(4, 3, 2, 3, 3), (7, 4), (5,), ()])
def test_it_takes_weights_of_every_rank_and_order(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    orders = [tuple(range(len(shape))), tuple(reversed(range(len(shape))))]
    found = []
    for order in orders:
        turned = (
            values.permute(order)
            .clone(memory_format=torch.contiguous_format)
            .permute([order.index(dim) for dim in range(len(shape))])
        )
        parameter = nn.Parameter(turned)
        optimizer = FusedAdam([parameter], **OPTIONS)
        for _ in range(3):
            parameter.grad = torch.sin(3 * values)
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_is_taken_over_from_any_adam_and_into_any_layout(layout: str) -> None:
    twin = _weight()
    loop = torch.optim.Adam([twin], amsgrad=True, **OPTIONS)
    for step in range(3):
        twin.grad = _gradient(step)
        loop.step()
    weight = nn.Parameter(twin.detach().clone().contiguous(memory_format=LAYOUTS[layout]))
    ours = FusedAdam([weight], lr=1.0, amsgrad=True)
    ours.load_state_dict(_reload(loop))
    assert ours.param_groups[0]["fused"] is True
    assert ours.param_groups[0]["lr"] == OPTIONS["lr"]
    for step in range(3, 6):
        weight.grad, twin.grad = _gradient(step), _gradient(step)
        ours.step()
        loop.step()
    torch.testing.assert_close(weight, twin, atol=1e-6, rtol=0)
    back = torch.optim.Adam([_weight()], amsgrad=True)
    back.load_state_dict(_reload(ours))
    assert back.state_dict()["state"][0]["step"] == 6


def _adams(objective: Any) -> dict[str, FusedAdam]:
    return {name: FusedAdam(player.parameters(), lr=1e-3) for name, player in objective.players.items()}


def _objective(make_trainer: Any) -> Any:
    return copy.deepcopy(make_trainer().objective)


def test_a_resumed_training_ends_as_one_without_a_stop(make_trainer: Any, tmp_path: Path) -> None:
    ends = []
    for folder, stops in (("whole", [4]), ("parts", [2, 4])):
        set_determinism(seed=0)
        for number, max_epochs in enumerate(stops):
            objective = _objective(make_trainer)
            for player in objective.players.values():
                player.to(memory_format=torch.channels_last)
            trainer, checkpoint, average = assemble(
                make_trainer,
                tmp_path / folder,
                objective=objective,
                optimizers=_adams(objective),
                max_epochs=max_epochs,
                clip_norm=1.0,
            )
            checkpoint.start(trainer, resume=number > 0)
            trainer.run()
        ends.append(everything(trainer, average))
    assert_same(*ends)


def test_under_loss_scaling_it_trains_as_the_loop(make_trainer: Any) -> None:
    weights = []
    for make in (FusedAdam, torch.optim.Adam):
        torch.manual_seed(0)
        objective = _objective(make_trainer)
        optimizers = {name: make(p.parameters(), lr=1e-3) for name, p in objective.players.items()}
        torch.manual_seed(0)
        trainer = make_trainer(objective=objective, optimizers=optimizers, precision="fp16", max_epochs=1)
        trainer.run()
        weights.append(torch.cat([p.detach().flatten() for p in objective.players["generator"].parameters()]))
    torch.testing.assert_close(*weights, atol=1e-4, rtol=0)  # gradients in half precision


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gradient_that_overflows_leaves_the_step_out(layout: str) -> None:
    weight = _weight(layout)
    before = weight.detach().clone()
    optimizer, scaler = FusedAdam([weight], **OPTIONS), torch.amp.GradScaler("cpu")
    scaler.scale((weight * _gradient(0)).sum()).backward()
    assert weight.grad is not None
    weight.grad[0, 0, 0, 0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, before)
    assert scaler.get_scale() == 2**15
    optimizer.zero_grad()
    scaler.scale((weight * _gradient(0)).sum()).backward()
    scaler.step(optimizer)
    # The first step of Adam has the length of the learning rate, whatever the scale.
    torch.testing.assert_close(before - weight.detach(), OPTIONS["lr"] * _gradient(0).sign(), atol=1e-4, rtol=0)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="FusedAdam takes no foreach"):
        FusedAdam([_weight()], foreach=True)
    overlapping = nn.Parameter(torch.zeros(3, 1).expand(3, 4))
    optimizer = FusedAdam([overlapping])
    overlapping.grad = torch.ones(3, 4)
    with pytest.raises(ConfigError, match=r"shape \[3, 4\] has the strides \[1, 0\]"):
        optimizer.step()

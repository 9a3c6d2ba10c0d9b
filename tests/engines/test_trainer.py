"""The training loop: official trajectories, precision, accumulation, clipping, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import nn

from monai_synth.checkpoints.importers import import_state
from monai_synth.engines import SynthesisTrainer
from monai_synth.errors import ConfigError, DivergenceError
from monai_synth.objectives import Pix2Pix


def _build(arrays: Any, player: str) -> tuple[nn.Module, dict[str, str]]:
    """Our network with the official start weights, and the official keys of ours."""
    state = {
        key.removeprefix(f"sd/{player}/"): torch.from_numpy(
            arrays[key].reshape(() if "num_batches" in key else arrays[key].shape)
        )
        for key in arrays.files
        if key.startswith(f"sd/{player}/")
    }
    imported = import_state(state, player)
    return imported.network.train(), imported.report.used


@pytest.mark.parametrize("name", ["traj_pix2pix_batch_vanilla", "traj_pix2pix_instance_lsgan"])
def test_training_follows_the_official_trajectory(name: str, golden_dir: Path) -> None:
    arrays = np.load(golden_dir / f"{name}.npz")
    config = json.loads(str(arrays["config"]))
    (generator, generator_keys), (discriminator, _) = _build(arrays, "G"), _build(arrays, "D")
    objective = Pix2Pix(generator, discriminator, adversarial=config["gan_mode"], lambda_l1=config["lambda_L1"])
    batches = [
        {"condition": torch.from_numpy(a), "target": torch.from_numpy(b)}
        for a, b in zip(arrays["in/A"], arrays["in/B"], strict=True)
    ]
    trainer = SynthesisTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        objective=objective,
        optimizers={
            player: torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
            for player, network in objective.players.items()
        },
    )
    losses: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: losses.append({k: v.item() for k, v in e.state.output.items() if k[:2] in ("d_", "g_")}),
    )
    trainer.run()

    # Ours are weighted: the discriminator's terms by one half.
    for ours, official, factor in (
        ("d_real", "D_real", 2), ("d_fake", "D_fake", 2), ("g_gan", "G_GAN", 1), ("g_l1", "G_L1", 1)
    ):  # fmt: skip
        found = [factor * step[ours] for step in losses]
        np.testing.assert_allclose(found, arrays[f"out/loss_{official}"], rtol=0, atol=1e-5, err_msg=ours)
    final = generator.state_dict()
    for key, ours in generator_keys.items():
        if f"G/{key}" not in config["final_sd_unstable_keys"] and f"out/final_sd/G/{key}" in arrays.files:
            expected = arrays[f"out/final_sd/G/{key}"]
            np.testing.assert_allclose(final[ours].numpy().reshape(expected.shape), expected, atol=2e-5, err_msg=key)
    with torch.no_grad():
        fake = generator.eval()(batches[0]["condition"]).numpy()
    np.testing.assert_allclose(fake, arrays["out/final_eval_fake"], atol=1e-4)


def test_fires_the_events_and_outputs_that_monai_handlers_read(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1)
    seen: list[str] = []
    for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.MODEL_COMPLETED, Events.EPOCH_COMPLETED):
        trainer.add_event_handler(event, lambda _, name=event.name: seen.append(name))
    trainer.run()
    assert seen.count("MODEL_COMPLETED") == seen.count("FORWARD_COMPLETED") == 5
    output = trainer.state.output
    assert {"condition", "target", "pred", "loss", "d_real", "d_fake", "g_gan", "g_l1"} <= output.keys()
    terms = sum(output[name] for name in ("d_real", "d_fake", "g_gan", "g_l1"))
    assert output["loss"].item() == pytest.approx(terms.item())


def test_learns_and_leaves_every_parameter_trainable(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=12)
    errors: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: errors.append(e.state.output["g_l1"].item()))
    trainer.run()
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])
    assert all(p.requires_grad for player in trainer.objective.players.values() for p in player.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_and_keeps_float32_weights(make_trainer: Any, precision: str) -> None:
    trainer = make_trainer(max_epochs=2, precision=precision)
    before = {k: v.clone() for k, v in trainer.objective.players["generator"].state_dict().items()}
    trainer.run()
    after = trainer.objective.players["generator"].state_dict()
    weights = [key for key in before if key.endswith("conv.weight")]
    assert all(after[key].dtype is torch.float32 and torch.isfinite(after[key]).all() for key in weights)
    assert any(not torch.equal(before[key], after[key]) for key in weights)
    assert trainer.state.output["pred"].dtype is (torch.bfloat16 if precision == "bf16" else torch.float16)


def test_unknown_precision_is_refused(make_trainer: Any) -> None:
    with pytest.raises(ConfigError, match="'fp64' is unknown"):
        make_trainer(precision="fp64")


class _Regression:
    """One player without batch statistics, for which accumulated gradients equal those of the large batch."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.players = {"generator": nn.Conv2d(1, 1, 3, padding=1)}

    def generate(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"pred": self.players["generator"](batch["condition"])}

    def losses(self, player: str, batch: Any, out: Any) -> dict[str, torch.Tensor]:
        return {"g_l2": (out["pred"] - batch["target"]).square().mean()}


def test_accumulated_small_batches_equal_one_large_batch(make_trainer: Any) -> None:
    def weights(batch_size: int, accumulation_steps: int) -> torch.Tensor:
        objective = _Regression()
        optimizer = torch.optim.SGD(objective.players["generator"].parameters(), lr=0.1)
        dataset = torch.utils.data.Subset(make_trainer().data_loader.dataset, range(8))
        trainer = make_trainer(
            objective=objective,
            optimizers={"generator": optimizer},
            dataset=dataset,
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
        )
        trainer.run()
        return objective.players["generator"].weight.detach()

    torch.testing.assert_close(weights(4, 1), weights(2, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(weights(4, 1), weights(1, 4), atol=1e-6, rtol=0)


def test_an_incomplete_group_at_the_end_of_an_epoch_is_not_lost(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1, accumulation_steps=3)  # five batches: groups of three and two
    steps: list[bool] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append(e.state.is_step))
    trainer.run()
    assert steps == [False, False, True, False, True]


def test_clipping_bounds_the_gradient(make_trainer: Any) -> None:
    trainer = make_trainer(max_epochs=1, clip_norm=1e-3)
    trainer.run()
    gradients = [p.grad for p in trainer.objective.players["generator"].parameters() if p.grad is not None]
    assert torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])) <= 1e-3 * 1.001


def test_a_loss_that_is_not_finite_names_term_and_cases(make_trainer: Any) -> None:
    class Poisoned(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            condition = torch.full((1, 16, 16), torch.nan if index else 0.5)
            return {"condition": condition, "target": torch.zeros(1, 16, 16), "case_id": f"case{index}"}

    trainer = make_trainer(dataset=Poisoned(), batch_size=1)
    with pytest.raises(DivergenceError, match=r"discriminator is not finite at epoch 1.*d_fake = nan.*cases case1"):
        trainer.run()


def test_a_player_without_optimiser_or_with_lost_parameters_is_refused(make_trainer: Any) -> None:
    objective = make_trainer().objective
    some = {"generator": torch.optim.Adam(objective.players["generator"].parameters())}
    with pytest.raises(ConfigError, match="exactly one optimiser to each player"):
        make_trainer(objective=objective, optimizers=some)
    partial = {
        **some,
        "discriminator": torch.optim.Adam(list(objective.players["discriminator"].parameters())[:-1]),
    }
    with pytest.raises(ConfigError, match="1 parameter.s. of player 'discriminator' are in no optimiser"):
        make_trainer(objective=objective, optimizers=partial)

"""The method OASIS: official trajectories, noise, LabelMix, balance, precision, and refusals."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn

from monai_synth.checkpoints.importers import import_state
from monai_synth.engines import SynthesisTrainer
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.handlers import EMA
from monai_synth.networks import OASISDiscriminator, OASISGenerator
from monai_synth.objectives import Oasis, Objective
from monai_synth.objectives.label_maps import RegionNoise

TERMS = {"G_adv": "g_gan", "D_fake": "d_fake", "D_real": "d_real", "D_lm": "d_labelmix"}
LEARNING_RATES = {"generator": 1e-4, "discriminator": 4e-4}


class Trajectory:
    """One golden training and ours, which starts from its weights and takes its draws."""

    def __init__(self, golden: Any) -> None:
        self.golden = golden
        self.config = json.loads(str(golden["config"]))
        self.opt = self.config["opt"]
        self.imported = {player: self._import(player) for player in "GD"}
        self.labels = torch.from_numpy(golden["in/label"]).long()
        self.noise = torch.from_numpy(golden["in/z"])
        self.calls = 0
        self.bits = torch.from_numpy(golden["in/labelmix_draws"])
        self.bits_used = 0

    def _import(self, player: str) -> Any:
        prefix = f"sd/{player}/"
        state = {
            key.removeprefix(prefix): torch.from_numpy(
                self.golden[key].reshape(() if key.endswith("tracked") else self.golden[key].shape)
            )
            for key in self.golden.files
            if key.startswith(prefix)
        }
        return import_state(state, prefix, **({"noise_channels": self.opt["z_dim"]} if player == "G" else {}))

    def condition(self, step: int) -> torch.Tensor:
        channels = torch.arange(self.opt["semantic_nc"]).reshape(1, -1, 1, 1)
        return (self.labels[step] == channels).float()

    def next_noise(self, condition: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.noise[self.calls - 1]

    def next_bits(self, labels: torch.Tensor) -> torch.Tensor:
        count = len(labels.argmax(1).unique())
        self.bits_used += count
        return self.bits[self.bits_used - count : self.bits_used]

    def run(self, *handlers: Any, **changes: Any) -> dict[str, np.ndarray]:
        """Train; gives every loss of every step."""
        objective = Oasis(
            self.imported["G"].network.train(),
            self.imported["D"].network.train(),
            **{
                "dont_care": 0 if self.opt["contain_dontcare_label"] else None,
                "lambda_labelmix": 0 if self.opt["no_labelmix"] else self.opt["lambda_labelmix"],
                "labelmix_quirk": True,
                "draw_noise": self.next_noise,
                "draw_labelmix": self.next_bits,
                **changes,
            },
        )
        trainer = SynthesisTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=[
                {"condition": self.condition(step), "target": torch.from_numpy(image)}
                for step, image in enumerate(self.golden["in/image"])
            ],
            objective=objective,
            optimizers={
                player: torch.optim.Adam(network.parameters(), lr=LEARNING_RATES[player], betas=(0.0, 0.999))
                for player, network in objective.players.items()
            },
        )
        steps: list[dict[str, float]] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: steps.append(
                {name: engine.state.output[ours].item() for name, ours in TERMS.items() if ours in engine.state.output}
            ),
        )
        for handler in handlers:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, handler)
        trainer.run()
        return {name: np.array([step[name] for step in steps]) for name in steps[0]}

    def loss_gaps(self, losses: dict[str, np.ndarray]) -> dict[str, float]:
        assert sorted(losses) == sorted(
            key.removeprefix("out/loss_") for key in self.golden.files if key.startswith("out/loss_")
        )
        return {name: float(np.abs(found - self.golden[f"out/loss_{name}"]).max()) for name, found in losses.items()}

    def weight_gaps(self, player: str, network: nn.Module, *, like: str | None = None) -> dict[str, float]:
        """Greatest difference of every entry that rounding does not move, by the official key."""
        used, state, prefix = self.imported[like or player].report.used, network.state_dict(), f"out/final_sd/{player}/"
        gaps = {}
        for key in self.golden.files:
            official = key.removeprefix(prefix)
            is_unstable = f"{like or player}/{official}" in self.config["final_sd_unstable_keys"]
            # Synchronised batch norm of the original never counts its batches.
            if key.startswith(prefix) and not is_unstable and not official.endswith("tracked"):
                ours = state[used[official]].numpy()
                gaps[official] = float(np.abs(ours - self.golden[key].reshape(ours.shape)).max())
        assert gaps
        return gaps

    def image_gap(self, network: nn.Module, name: str) -> float:
        with torch.no_grad():
            fake = network.eval()(self.condition(0), self.noise[-1])
        return float(np.abs(fake.numpy() - self.golden[name]).max())


@pytest.fixture
def trajectory(shared_dir):
    return lambda name: Trajectory(np.load(shared_dir / "golden" / f"{name}.npz"))


@pytest.mark.parametrize("name", ["traj_oasis", "traj_oasis_labelmix_ema"])
def test_a_training_follows_the_official_one(trajectory, name):
    case = trajectory(name)
    gaps = case.loss_gaps(case.run())
    assert max(gaps.values()) <= 1e-5, gaps
    for variant, differences in case.config["wrong_variants"].items():
        assert max(differences["max_loss_diff"].values()) > 100 * max(gaps.values()), variant
    for player in "GD":
        gaps = case.weight_gaps(player, case.imported[player].network)
        # The running means follow the biases in front of them, which rounding moves and the norm takes away again.
        for kind, limit in (("running_mean", 2e-4), ("", 5e-5)):
            found = {key: gaps.pop(key) for key in list(gaps) if key.endswith(kind)}
            assert max(found.values(), default=0) <= limit, {key: gap for key, gap in found.items() if gap > limit}
    tolerance = 20 * case.config["noise_fp64_out"]["final_eval_fake"]
    assert case.image_gap(case.imported["G"].network, "out/final_eval_fake") <= tolerance
    assert case.calls == 10
    assert case.bits_used == len(case.bits)


def test_the_average_follows_the_official_one_where_it_is_asked_to(trajectory):
    case = trajectory("traj_oasis_labelmix_ema")
    generator = case.imported["G"].network
    published, ours = EMA(generator, decay=0.99, warm_up=False, buffers="published"), EMA(generator, decay=0.99)
    case.run(published.update, ours.update)
    gaps = case.weight_gaps("EMA", published.network, like="G")
    assert max(gaps.values()) <= 1e-5, {key: gap for key, gap in gaps.items() if gap > 1e-5}
    tolerance = max(1e-4, 20 * case.config["noise_fp64_out"]["final_eval_fake_ema"])
    assert case.image_gap(published.network, "out/final_eval_fake_ema") <= tolerance
    # Ours lets go of the start weights sooner, and keeps the singular vectors of the spectral norms as they are.
    assert max(case.weight_gaps("EMA", ours.network, like="G").values()) > 1e-3


def test_other_orders_and_draws_are_not_met(trajectory):
    case = trajectory("traj_oasis_labelmix_ema")
    case.noise = case.noise[::2].repeat_interleave(2, dim=0)
    expected = case.config["wrong_variants"]["same_noise_for_G_and_D_step"]["max_loss_diff"]
    gaps = case.loss_gaps(case.run())
    assert gaps == pytest.approx(expected, abs=1e-4)


NUM_LABELS = 3


def make(spatial_dims: int = 2, **options: Any) -> Oasis:
    torch.manual_seed(0)
    num_edges = options.get("edge_channels", 0)
    return Oasis(
        OASISGenerator(
            spatial_dims=spatial_dims,
            in_channels=NUM_LABELS + num_edges,
            edge_channels=num_edges,
            out_channels=1,
            channels=2,
            noise_channels=3,
            hidden_channels=4,
            init_gain=1.0,
        ),
        OASISDiscriminator(spatial_dims=spatial_dims, in_channels=1, num_classes=NUM_LABELS, channels=4, init_gain=1.0),
        **options,
    )


def make_batch(*size: int, classes: int = NUM_LABELS) -> dict[str, Any]:
    size = size or (32, 64)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (2, *size), generator=generator)
    return {
        "condition": nn.functional.one_hot(labels, NUM_LABELS).movedim(-1, 1).float(),
        "target": torch.rand(2, 1, *size, generator=generator) * 2 - 1,
    }


def train(objective: Any, batches: list[dict[str, Any]], **options: Any) -> list[dict[str, float]]:
    """Every loss of every step."""
    trainer = SynthesisTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches,
        objective=objective,
        optimizers={
            name: torch.optim.Adam(player.parameters(), lr=1e-4, betas=(0.0, 0.999))
            for name, player in objective.players.items()
        },
        **options,
    )
    steps: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: steps.append({k: v.item() for k, v in e.state.output.items() if k[:2] in ("g_", "d_", "s_")}),
    )
    trainer.run()
    return steps


def test_fulfils_the_protocol_with_the_generator_first():
    objective = make()
    assert isinstance(objective, Objective)
    assert list(objective.players) == ["generator", "discriminator"]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradients_reach_every_weight_of_the_player(spatial_dims):
    objective = make(spatial_dims)
    batch = make_batch(*(32,) * spatial_dims)
    out = objective.generate(batch)
    for name, player in objective.players.items():
        for other in objective.players.values():
            other.requires_grad_(other is player)
            other.zero_grad()
        sum(objective.losses(name, batch, out).values()).backward()
        missing = [key for key, p in player.named_parameters() if p.grad is None or not p.grad.any()]
        # A constant in front of a batch norm has no effect, but for rounding.
        assert not [key for key in missing if not key.endswith("bias")], missing


def test_the_discriminator_judges_a_fake_made_anew_in_training_mode_without_gradients():
    objective = make()
    generator, discriminator = objective.players["generator"], objective.players["discriminator"]
    batch, seen = make_batch(), []
    discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    out = objective.generate(batch)
    statistics = generator.blocks[0].norm_0.norm.running_mean.clone()
    objective.losses("discriminator", batch, out)
    fake, real, mixed = seen
    assert not fake.requires_grad
    assert not torch.allclose(fake, out["pred"], atol=1e-3), "new noise"
    assert torch.equal(real, batch["target"])
    assert ((mixed == fake) | (mixed == real)).all()
    assert not torch.equal(generator.blocks[0].norm_0.norm.running_mean, statistics)


def test_labelmix_can_be_left_out_with_its_pass():
    objective, calls = make(lambda_labelmix=0), []
    objective.players["discriminator"].register_forward_pre_hook(lambda *_: calls.append(1))
    batch = make_batch()
    terms = objective.losses("discriminator", batch, objective.generate(batch))
    assert list(terms) == ["d_fake", "d_real"]
    assert len(calls) == 2


def test_a_perceptual_loss_joins_with_its_weight():
    distance = nn.MSELoss()
    objective, batch = make(perceptual=distance, lambda_perceptual=3.0), make_batch()
    out = objective.generate(batch)
    terms = objective.losses("generator", batch, out)
    assert list(terms) == ["g_gan", "g_perceptual"]
    assert terms["g_perceptual"].item() == pytest.approx(3 * distance(out["pred"], batch["target"]).item(), rel=1e-6)


def test_edges_reach_the_generator_but_are_no_labels():
    objective, batch = make(edge_channels=1), make_batch()
    batch["condition"] = torch.cat([batch["condition"], torch.rand(2, 1, 32, 64).round()], dim=1)
    out = objective.generate(batch)
    assert objective.losses("generator", batch, out)["g_gan"] > 0
    assert objective.losses("discriminator", batch, out)["d_real"] > 0


def test_noise_can_be_drawn_for_each_region():
    torch.manual_seed(0)
    batch = make_batch()
    noise = RegionNoise(3)(batch["condition"])
    classes = batch["condition"].argmax(1)
    assert noise.shape == (2, 3, 32, 64)
    vectors = [noise[i, :, classes[i] == c].unique(dim=1) for i in range(2) for c in range(NUM_LABELS)]
    assert all(vector.shape == (3, 1) for vector in vectors), "one for each class of each image"
    assert len(torch.cat(vectors, dim=1).unique(dim=1)[0]) == 2 * NUM_LABELS
    with_edges = torch.cat([batch["condition"], torch.rand(2, 1, 32, 64)], dim=1)
    torch.manual_seed(0)
    torch.testing.assert_close(RegionNoise(3, edge_channels=1)(with_edges), noise)
    objective = make(draw_noise=RegionNoise(3))
    assert objective.generate(batch)["pred"].shape == batch["target"].shape
    with pytest.raises(ConfigError, match="channels=0"):
        RegionNoise(0)


@pytest.mark.parametrize("dont_care", [None, 0, 1])
def test_a_batch_of_one_class_trains(dont_care):
    """Class 0 alone: all of the body, or nothing but what is not known."""
    (terms,) = train(make(dont_care=dont_care), [make_batch(classes=1)])
    assert all(np.isfinite(value) for value in terms.values())
    assert (terms["g_gan"] == 0) == (dont_care == 0)


def test_reduced_precision_stays_near_full_precision():
    batches = [make_batch(), make_batch()]
    torch.manual_seed(1)
    full = train(make(), batches)
    torch.manual_seed(1)
    reduced = train(make(), batches, precision="bf16")
    assert reduced[0] == pytest.approx(full[0], abs=0.1)
    assert all(np.isfinite(value) for terms in reduced for value in terms.values())


def test_frozen_networks_are_used_inside_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        objective, batch, calls = make(), make_batch(), []
        for name, network in list(objective.players.items()):
            wrapped = nn.parallel.DistributedDataParallel(network)
            wrapped.register_forward_pre_hook(lambda module, args, name=name: calls.append(name))
            objective.players[name] = wrapped
        out = objective.generate(batch)
        objective.losses("generator", batch, out)
        assert calls == ["generator"]
        sum(objective.losses("discriminator", batch, out).values()).backward()
        assert calls == ["generator", *["discriminator"] * 3]
    finally:
        torch.distributed.destroy_process_group()


def test_what_does_not_fit_is_refused():
    objective, batch = make(), make_batch()
    out = objective.generate(batch)
    with pytest.raises(ConfigError, match="'a' and 'b'"):
        objective.losses("generator", {**batch, "case_id": ["a", "a"], "target_case_id": ["b", "a"]}, out)
    with pytest.raises(ConfigError, match="no player 'critic'"):
        objective.losses("critic", batch, out)
    with pytest.raises(ConfigError, match="'target'"):
        objective.losses("generator", {"condition": batch["condition"]}, out)
    with pytest.raises(GeometryError, match="one-hot labels"):
        objective.losses("generator", {**batch, "condition": batch["condition"][:, :1]}, out)
    with pytest.raises(GeometryError, match=r"\[2, 2, 32, 64\].*num_classes"):
        objective.losses("generator", {**batch, "condition": batch["condition"][:, :2]}, out)
    for options in ({"lambda_labelmix": -1.0}, {"lambda_perceptual": -1.0}, {"edge_channels": -1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Oasis(*objective.players.values(), **options)

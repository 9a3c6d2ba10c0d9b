import random

import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from unpaired_training import (
    SIZE,
    OfficialTraining,
    build_cyclegan,
    make_batches,
    make_optimizers,
    small_judge,
    small_resnet,
    train,
    train_on_ranks,
    train_plainly,
)

from monai_synth.data.slices import SliceDataset
from monai_synth.data.unpaired import UnpairedDataset
from monai_synth.engines import SynthesisTrainer
from monai_synth.errors import CheckpointError, ConfigError, GeometryError
from monai_synth.handlers import TrainingCheckpoint
from monai_synth.objectives import CycleGan, Objective

# Official loss -> our terms. The published D_A judges images of B.
TERMS = {
    "D_A": ("d_real_b", "d_fake_b"),
    "D_B": ("d_real_a", "d_fake_a"),
    "G_A": ("g_gan_b",),
    "G_B": ("g_gan_a",),
    "cycle_A": ("g_cycle_a",),
    "cycle_B": ("g_cycle_b",),
    "idt_A": ("g_identity_b",),
    "idt_B": ("g_identity_a",),
}
NETWORKS = ("G_A", "G_B", "D_B", "D_A")


@pytest.fixture
def official(shared_dir):
    return OfficialTraining(shared_dir / "golden" / "traj_cyclegan.npz", NETWORKS)


def follow(official, dtype=torch.float32):
    config = official.config
    return CycleGan(
        *(official.network(name).to(dtype) for name in NETWORKS),
        adversarial=config["gan_mode"],
        lambda_a=config["lambda_A"],
        lambda_b=config["lambda_B"],
        lambda_identity=config["lambda_identity"],
    )


@pytest.fixture
def batch():
    return make_batches(num_images=2)[0]


def turn(objective, player, batch):
    for name, network in objective.players.items():
        network.requires_grad_(name == player).zero_grad()
    terms = objective.losses(player, batch, objective.generate(batch))
    sum(terms.values()).backward()
    return terms


# One weight's first gradient (2e-6) is below the rounding of float32 (2e-5), so that the number of threads decides in
# which direction Adam moves it. In double precision nothing is left to chance.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 3e-4)])
def test_a_training_follows_the_official_one(official, dtype, tolerance):
    steps = train(follow(official, dtype), official.batches(dtype))
    gaps = official.loss_gaps(steps, TERMS, {})
    assert max(gaps.values()) <= tolerance, gaps
    if dtype == torch.float64:
        assert max(official.weight_gap(name) for name in NETWORKS) <= 2e-5
        assert official.image_gap("G_A", "out/final_fake_B") <= 1e-4


def test_another_order_of_the_turns_would_be_noticed(official):
    objective = follow(official, torch.float64)
    objective.players = dict(reversed(objective.players.items()))
    gaps = official.loss_gaps(train(objective, official.batches(torch.float64)), TERMS, {})
    variant = official.config["wrong_variants"]["D_first"]["max_loss_diff"]
    for name in ("G_A", "G_B"):
        assert gaps[name] == pytest.approx(variant[name], rel=1e-2)


def test_fulfils_the_protocol_with_the_generators_first():
    objective = build_cyclegan()
    assert isinstance(objective, Objective)
    assert list(objective.players) == ["generators", "discriminators"]


def test_terms_are_named_and_weighted(batch):
    plain = build_cyclegan(lambda_a=1.0, lambda_b=1.0, lambda_identity=1.0)
    expected = plain.losses("generators", batch, plain.generate(batch))
    objective = build_cyclegan(lambda_a=3.0, lambda_b=5.0, lambda_identity=0.5)
    terms = objective.losses("generators", batch, objective.generate(batch))
    factors = {"g_cycle_a": 3, "g_identity_a": 1.5, "g_cycle_b": 5, "g_identity_b": 2.5, "g_gan_a": 1, "g_gan_b": 1}
    assert terms.keys() == factors.keys()
    for name, factor in factors.items():
        assert terms[name].shape == ()
        assert terms[name].item() == pytest.approx(factor * expected[name].item(), rel=1e-5)
    judged = objective.losses("discriminators", batch, objective.generate(batch))
    assert sorted(judged) == ["d_fake_a", "d_fake_b", "d_real_a", "d_real_b"]


def test_images_go_where_their_domain_says(batch):
    objective, seen = build_cyclegan(), {}
    for networks in objective.players.values():
        for name, network in networks.items():
            network.register_forward_pre_hook(
                lambda module, args, name=name: seen.setdefault(name, []).append(args[0].detach())
            )
    out = objective.generate(batch)
    for player in objective.players:
        objective.losses(player, batch, out)
    a, b, fake_a, fake_b = batch["condition"], batch["target"], out["fake_condition"], out["pred"]
    expected = {"ab": [a, fake_a, b], "ba": [fake_b, b, a], "a": [fake_a, a, fake_a], "b": [fake_b, b, fake_b]}
    assert seen.keys() == expected.keys()
    for name, images in expected.items():
        assert all(torch.equal(x, y) for x, y in zip(seen[name], images, strict=True)), name


def test_without_identity_the_domains_may_differ_in_channels():
    options = {"antialias_down": False, "antialias_up": False}
    objective = CycleGan(
        small_resnet(in_channels=3, **options),
        small_resnet(out_channels=3, **options),
        small_judge(in_channels=3),
        small_judge(),
        lambda_identity=0.0,
    )
    batch = {"condition": torch.rand(2, 3, *SIZE), "target": torch.rand(2, 1, 24, 16)}
    out = objective.generate(batch)
    assert out["pred"].shape == (2, 1, *SIZE)
    assert not any(name.startswith("g_identity") for name in objective.losses("generators", batch, out))
    assert len(objective.losses("discriminators", batch, out)) == 4


@pytest.mark.parametrize("player", ["generators", "discriminators"])
def test_every_parameter_of_a_player_gets_a_gradient_and_no_other(batch, player):
    objective = build_cyclegan()
    turn(objective, player, batch)
    for name, networks in objective.players.items():
        for key, parameter in networks.named_parameters():
            assert (parameter.grad is not None and bool(parameter.grad.any())) == (name == player), f"{name}.{key}"


def test_discriminators_see_the_history_and_generators_the_new():
    objective = build_cyclegan(pool_size=2, pool_source=random.Random(0))
    shown, seen = {"a": [], "b": []}, {"a": [], "b": []}
    for name, network in objective.players["discriminators"].items():
        network.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(args[0].detach()))
    for batch in make_batches(num_images=2, num_batches=8):
        out = objective.generate(batch)
        objective.losses("generators", batch, out)
        objective.losses("discriminators", batch, out)
        for domain, key in (("a", "fake_condition"), ("b", "pred")):
            in_generators_turn, real, fake = seen[domain][-3:]
            assert torch.equal(in_generators_turn, out[key])
            assert torch.equal(real, batch["condition" if domain == "a" else "target"])
            shown[domain].append(torch.equal(fake, out[key]))
    for domain, is_new in shown.items():
        assert is_new[0], "the history is being filled"
        assert not all(is_new)
        assert len(objective.pools[domain]) == 2


def test_half_precision_trains():
    objective = build_cyclegan(pool_size=2)
    steps = train(objective, make_batches(), precision="bf16")
    assert all(np.isfinite(value) for step in steps for value in step.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in objective.players["generators"].parameters())


def test_images_learn_to_come_back():
    objective = build_cyclegan()
    steps = train(objective, make_batches() * 20, optimizers=make_optimizers(objective, lr=2e-3))
    cycles = [step["g_cycle_a"] + step["g_cycle_b"] for step in steps]
    assert np.mean(cycles[-6:]) < 0.7 * np.mean(cycles[:6])


def test_two_processes_with_half_of_each_batch_equal_one(tmp_path):
    alone, half = train_plainly("cyclegan"), train_plainly("cyclegan", slice(0, None, 2))
    first, second = train_on_ranks("cyclegan", tmp_path)
    assert first.keys() == second.keys() == alone.keys()
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, atol=1e-12, rtol=0)
    for network in (
        "generators.ab.layers.1",
        "generators.ba.layers.1",
        "discriminators.a.head",
        "discriminators.b.head",
    ):
        assert (alone[f"{network}.weight"] - half[f"{network}.weight"]).abs().max() > 1e-4, "halves differ"


# --- going on after a stop -------------------------------------------------------------------------------------------


def unpaired_slices():
    """Two slices of each of four patients, of which none meets its own."""
    sides = {}
    for key, images in (("condition", make_batches(4, 2)[0]), ("target", make_batches(4, 2)[1])):
        volumes = torch.stack([images["condition"], images["target"]], dim=-1)
        data = [{"case_id": f"c{k}", "patient_id": f"p{k}", key: volume} for k, volume in enumerate(volumes)]
        sides[key] = SliceDataset(data, dict, keys=(key,), foreground_key=None)
    return UnpairedDataset(sides["condition"], sides["target"])


def assemble(folder, dataset, max_epochs, *, keeps_pools=True):
    objective = build_cyclegan(pool_size=3)
    optimizers = make_optimizers(objective)
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=0)
    trainer = SynthesisTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(dataset, batch_size=2, sampler=sampler, generator=torch.Generator()),
        objective=objective,
        optimizers=optimizers,
    )
    parts = {**objective.players, **{f"{name}_optimizer": value for name, value in optimizers.items()}}
    checkpoint = TrainingCheckpoint(folder, parts | ({"objective": objective} if keeps_pools else {}))
    checkpoint.attach(trainer)
    return trainer, checkpoint


def everything(trainer):
    objective = trainer.objective
    flat = {
        f"{n}.{key}": value for n, player in objective.players.items() for key, value in player.state_dict().items()
    }
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            flat |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    for name, pool in objective.state_dict().items():
        flat |= {f"{name}.{index}": image for index, image in enumerate(pool["images"])}
    return flat | {"random": torch.tensor([torch.rand(1).item(), random.random()])}


@pytest.mark.parametrize("keeps_pools", [True, False])
def test_training_on_after_a_stop_is_bitwise_the_same_if_the_histories_are_kept(tmp_path, keeps_pools):
    dataset = unpaired_slices()
    set_determinism(seed=0)
    trainer, checkpoint = assemble(tmp_path / "whole", dataset, 4, keeps_pools=keeps_pools)
    checkpoint.start(trainer)
    trainer.run()
    whole = everything(trainer)

    set_determinism(seed=0)
    trainer, checkpoint = assemble(tmp_path / "parts", dataset, 2, keeps_pools=keeps_pools)
    checkpoint.start(trainer)
    trainer.run()
    torch.manual_seed(99), random.seed(99)
    trainer, checkpoint = assemble(tmp_path / "parts", dataset, 4, keeps_pools=keeps_pools)
    checkpoint.start(trainer, resume=True)
    trainer.run()
    resumed = everything(trainer)
    set_determinism(seed=None)

    assert whole.keys() == resumed.keys()
    assert len([key for key in whole if key.startswith("pool_")]) == 6
    differing = [key for key, value in whole.items() if not torch.equal(value, resumed[key])]
    assert (differing == []) == keeps_pools, differing


def test_histories_of_another_training_are_refused():
    objective = build_cyclegan(pool_size=3)
    for batch in make_batches(num_images=2):
        objective.losses("discriminators", batch, objective.generate(batch))
    build_cyclegan(pool_size=3).load_state_dict(objective.state_dict())
    with pytest.raises(CheckpointError, match="pool of 3 images, this pool takes 2"):
        build_cyclegan(pool_size=2).load_state_dict(objective.state_dict())
    with pytest.raises(CheckpointError, match="a list of tensors"):
        objective.load_state_dict({})


# --- errors ----------------------------------------------------------------------------------------------------------


def test_without_target_there_is_a_prediction_but_no_loss(batch):
    objective = build_cyclegan()
    out = objective.generate({"condition": batch["condition"]})
    assert list(out) == ["pred"]
    assert torch.equal(out["pred"], objective.players["generators"]["ab"](batch["condition"]))
    with pytest.raises(ConfigError, match=r"CycleGan needs 'target'.*it has: condition"):
        objective.losses("generators", {"condition": batch["condition"]}, out)


def test_networks_that_do_not_fit_each_other_are_refused(batch):
    networks = [small_resnet(in_channels=2), small_resnet(out_channels=2), small_judge(in_channels=2), small_judge()]
    two_channels = {**batch, "condition": batch["condition"].expand(-1, 2, -1, -1)}
    objective = CycleGan(*networks)
    message = r"lambda_identity=0.5 .*\[2, 1, 16, 24\].*\[2, 2, 16, 24\].*lambda_identity=0"
    with pytest.raises(GeometryError, match=message):
        objective.losses("generators", two_channels, objective.generate(two_channels))
    objective = CycleGan(networks[0], small_resnet(), *networks[2:])
    with pytest.raises(GeometryError, match=r"_ba makes \[2, 1, 16, 24\] of .*, but must make \[2, 2, 16, 24\]"):
        objective.generate(two_channels)


def test_options_and_players_that_are_not_known_are_refused(batch):
    objective = build_cyclegan()
    with pytest.raises(ConfigError, match="no player 'generator'; its players are generators, discriminators"):
        objective.losses("generator", batch, objective.generate(batch))
    for name in ("lambda_a", "lambda_b", "lambda_identity"):
        with pytest.raises(ConfigError, match=f"{name}=-1"):
            build_cyclegan(**{name: -1})
    with pytest.raises(ConfigError, match="size=-1"):
        build_cyclegan(pool_size=-1)

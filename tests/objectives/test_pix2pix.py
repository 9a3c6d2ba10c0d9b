import json

import numpy as np
import pytest
import torch
from torch import nn

from monai_synth.checkpoints import import_checkpoint
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import PatchDiscriminator, UNetGenerator
from monai_synth.objectives import Objective, Pix2Pix

TERMS = {"D_real": ("d_real", 2.0), "D_fake": ("d_fake", 2.0), "G_GAN": ("g_gan", 1.0), "G_L1": ("g_l1", 1.0)}


def import_player(golden, player, folder):
    prefix = f"sd/{player}/"
    state = {
        key.removeprefix(prefix): torch.from_numpy(golden[key]).reshape(
            () if key.endswith("tracked") else golden[key].shape
        )
        for key in golden.files
        if key.startswith(prefix)
    }
    torch.save(state, folder / f"latest_net_{player}.pth")
    return import_checkpoint(folder / f"latest_net_{player}.pth")


def train_step(objective, optimizers, batch):
    for network in objective.players.values():
        network.requires_grad_(True)
    out = objective.generate(batch)
    terms = {}
    for player, optimizer in optimizers.items():
        for name, network in objective.players.items():
            network.requires_grad_(name == player)
        optimizer.zero_grad()
        losses = objective.losses(player, batch, out)
        sum(losses.values()).backward()
        optimizer.step()
        terms |= {name: float(value.detach()) for name, value in losses.items()}
    return terms


@pytest.mark.parametrize(
    ("name", "adversarial"), [("traj_pix2pix_batch_vanilla", "vanilla"), ("traj_pix2pix_instance_lsgan", "lsgan")]
)
def test_a_training_follows_the_official_one(golden_dir, tmp_path, name, adversarial):
    golden = np.load(golden_dir / f"{name}.npz")
    config = json.loads(str(golden["config"]))
    imported = {player: import_player(golden, player, tmp_path) for player in "GD"}
    networks = {player: found.network.train() for player, found in imported.items()}
    objective = Pix2Pix(networks["G"], networks["D"], adversarial=adversarial, lambda_l1=config["lambda_L1"])
    optimizers = {
        player: torch.optim.Adam(network.parameters(), lr=config["optim"]["adam_lr"], betas=config["optim"]["betas"])
        for player, network in objective.players.items()
    }
    for step, (condition, target) in enumerate(zip(golden["in/A"], golden["in/B"], strict=True)):
        batch = {"condition": torch.from_numpy(condition), "target": torch.from_numpy(target)}
        terms = train_step(objective, optimizers, batch)
        for official, (ours, factor) in TERMS.items():
            assert terms[ours] * factor == pytest.approx(golden[f"out/loss_{official}"][step], abs=1e-5), (step, ours)

    for player, network in networks.items():
        state, renamed = network.state_dict(), imported[player].report.used
        for key in golden.files:
            prefix = f"out/final_sd/{player}/"
            official = key.removeprefix(prefix)
            if not key.startswith(prefix) or f"{player}/{official}" in config["final_sd_unstable_keys"]:
                continue
            ours = state[renamed[official]]
            np.testing.assert_allclose(ours, golden[key].reshape(ours.shape), atol=2e-5, err_msg=official)
    with torch.no_grad():
        fake = networks["G"].eval()(torch.from_numpy(golden["in/A"][0]))
    np.testing.assert_allclose(fake, golden["out/final_eval_fake"], atol=1e-4)


def test_the_pixel_term_equals_the_official_one(golden_dir):
    golden = np.load(golden_dir / "loss_p2p.npz")
    pred = torch.from_numpy(golden["in/l1/a"]).requires_grad_()
    target = torch.from_numpy(golden["in/l1/const_b"])
    critic = PatchDiscriminator(in_channels=3 + 3, channels=2, num_layers=1)
    terms = Pix2Pix(nn.Identity(), critic).losses("generator", {"condition": target, "target": target}, {"pred": pred})
    terms["g_l1"].backward()
    assert terms["g_l1"].item() == pytest.approx(golden["out/l1"].item(), rel=1e-6)
    np.testing.assert_allclose(pred.grad, golden["grad/l1/a"], rtol=1e-6)


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return Pix2Pix(
        UNetGenerator(in_channels=2, channels=4, num_downs=3),
        PatchDiscriminator(in_channels=3, channels=4, num_layers=1),
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "condition": torch.randn(2, 2, 16, 24, generator=generator),
        "target": torch.rand(2, 1, 16, 24, generator=generator) * 2 - 1,
    }


def test_fulfils_the_protocol_with_the_discriminator_first(objective):
    assert isinstance(objective, Objective)
    assert list(objective.players) == ["discriminator", "generator"]


def test_terms_are_named_weighted_scalars(objective, batch):
    out = objective.generate(batch)
    assert out["pred"].shape == batch["target"].shape
    discriminator = objective.losses("discriminator", batch, out)
    generator = objective.losses("generator", batch, out)
    assert list(discriminator) == ["d_fake", "d_real"]
    assert list(generator) == ["g_gan", "g_l1"]
    assert all(value.shape == () for value in (discriminator | generator).values())
    l1 = (out["pred"] - batch["target"]).abs().mean()
    assert generator["g_l1"].item() == pytest.approx(100 * l1.item(), rel=1e-5)


def test_the_turn_of_the_discriminator_leaves_the_generator_alone(objective, batch):
    out = objective.generate(batch)
    sum(objective.losses("discriminator", batch, out).values()).backward()
    assert all(p.grad is None for p in objective.players["generator"].parameters())
    assert all(p.grad is not None for p in objective.players["discriminator"].parameters())


def test_the_discriminator_sees_the_condition_beside_the_image(objective, batch):
    seen = []
    objective.players["discriminator"].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    out = objective.generate(batch)
    objective.losses("discriminator", batch, out)
    objective.losses("generator", batch, out)
    fake = torch.cat([batch["condition"], out["pred"].detach()], dim=1)
    real = torch.cat([batch["condition"], batch["target"]], dim=1)
    assert len(seen) == 3
    assert all(torch.equal(a, b) for a, b in zip(seen, (fake, real, fake), strict=True))


def test_a_perceptual_loss_joins_with_its_weight(objective, batch):
    distance = nn.MSELoss()
    with_it = Pix2Pix(*reversed(objective.players.values()), perceptual=distance, lambda_perceptual=3.0)
    out = with_it.generate(batch)
    terms = with_it.losses("generator", batch, out)
    assert terms["g_perceptual"].item() == pytest.approx(3 * distance(out["pred"], batch["target"]).item(), rel=1e-6)


def test_the_turn_of_the_generator_uses_the_network_inside_ddp(objective, batch, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        discriminator = objective.players["discriminator"]
        wrapped = nn.parallel.DistributedDataParallel(discriminator)
        calls = []
        wrapped.register_forward_pre_hook(lambda module, args: calls.append("wrapper"))
        discriminator.register_forward_pre_hook(lambda module, args: calls.append("network"))
        objective.players["discriminator"] = wrapped
        out = objective.generate(batch)
        objective.losses("generator", batch, out)
        assert calls == ["network"]
        objective.losses("discriminator", batch, out)
        assert calls == ["network", "wrapper", "network", "wrapper", "network"]
    finally:
        torch.distributed.destroy_process_group()


def test_unpaired_data_is_refused(objective, batch):
    with pytest.raises(ConfigError, match=r"no 'target' \(it has: condition\).*unpaired"):
        objective.losses("generator", {"condition": batch["condition"]}, objective.generate(batch))
    with pytest.raises(ConfigError, match="no 'condition'"):
        objective.generate({"image": batch["condition"]})


def test_targets_of_other_cases_are_refused(objective, batch):
    ids = {"case_id": ["a", "b"], "target_case_id": ["a", "c"]}
    for player in objective.players:
        with pytest.raises(ConfigError, match="different cases .first: 'b' and 'c'"):
            objective.losses(player, batch | ids, objective.generate(batch))
    assert objective.losses("generator", batch | ids | {"target_case_id": ["a", "b"]}, objective.generate(batch))


def test_shapes_and_names_that_do_not_fit_are_refused(objective, batch):
    out = objective.generate(batch)
    with pytest.raises(GeometryError, match=r"\[2, 1, 16, 24\].*\[2, 1, 16, 16\]"):
        objective.losses("generator", {**batch, "target": batch["target"][..., :16]}, out)
    with pytest.raises(ConfigError, match="no player 'critic'"):
        objective.losses("critic", batch, out)
    with pytest.raises(ConfigError, match="lambda_l1=-1"):
        Pix2Pix(*reversed(objective.players.values()), lambda_l1=-1)

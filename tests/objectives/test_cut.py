import numpy as np
import pytest
import torch
from torch import nn
from unpaired_training import (
    NCE_LAYERS,
    OfficialTraining,
    build_cut,
    make_batches,
    make_optimizers,
    small_judge,
    small_resnet,
    train,
    train_on_ranks,
    train_plainly,
)

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import PatchNCELoss
from monai_synth.networks import PatchSampler, UNetGenerator
from monai_synth.objectives import Cut, Objective

# Official loss -> our terms, and what makes up for the published halves.
TERMS = {
    "D_fake": ("d_fake",),
    "D_real": ("d_real",),
    "G_GAN": ("g_gan",),
    "NCE": ("g_nce",),
    "NCE_Y": ("g_nce_identity",),
}
FACTORS = {"D_fake": 2.0, "D_real": 2.0, "NCE": 2.0, "NCE_Y": 2.0}


@pytest.fixture
def official(shared_dir):
    return OfficialTraining(shared_dir / "golden" / "traj_cut.npz", ["G", "D", "F"])


def follow(official):
    """The objective with the official start weights and places."""
    config, values = official.config, official.values
    ids = iter(torch.from_numpy(values[key]) for key in sorted(values) if key.startswith("in/ids_"))
    return Cut(
        *(official.network(name) for name in "GDF"),
        adversarial=config["gan_mode"],
        lambda_gan=config["lambda_GAN"],
        lambda_nce=config["lambda_NCE"],
        nce_layers=config["nce_layers"],
        num_patches=config["num_patches"],
        temperature=config["nce_T"],
        use_identity=config["nce_idt"],
        draw_places=lambda: [next(ids) for _ in config["nce_layers"]],
    )


@pytest.fixture
def batch():
    return make_batches(num_images=2)[0]


def gradients(objective):
    return {key: p.grad.clone() for key, p in objective.players["generator"].named_parameters()}


def turn(objective, player, batch):
    for name, network in objective.players.items():
        network.requires_grad_(name == player).zero_grad()
    out = objective.generate(batch)
    terms = objective.losses(player, batch, out)
    sum(terms.values()).backward()
    return terms


def test_a_training_follows_the_official_one(official):
    steps = train(follow(official), official.batches())
    gaps = official.loss_gaps(steps, TERMS, FACTORS)
    assert max(gaps.values()) <= 1e-4, gaps
    assert max(official.weight_gap(name) for name in "GDF") <= 2e-5
    assert official.image_gap("G", "out/final_eval_fake") <= 1e-4


def test_a_sampler_that_is_not_trained_would_be_noticed(official):
    objective = follow(official)
    optimizers = make_optimizers(objective)
    networks = objective.players["generator"]
    optimizers["generator"] = torch.optim.Adam(
        [{"params": networks["generator"].parameters()}, {"params": networks["sampler"].parameters(), "lr": 0.0}],
        lr=2e-4,
        betas=(0.5, 0.999),
    )
    gaps = official.loss_gaps(train(objective, official.batches(), optimizers=optimizers), TERMS, FACTORS)
    variant = official.config["wrong_variants"]["F_not_stepped"]["max_loss_diff"]
    for name in ("NCE", "NCE_Y"):
        assert gaps[name] == pytest.approx(variant[name], rel=1e-2)


def test_another_order_of_the_turns_would_be_noticed(official):
    objective = follow(official)
    objective.players = dict(reversed(objective.players.items()))
    gaps = official.loss_gaps(train(objective, official.batches()), TERMS, FACTORS)
    assert gaps["G_GAN"] > 1e-2


def test_fulfils_the_protocol_with_the_discriminator_first():
    objective = build_cut()
    assert isinstance(objective, Objective)
    assert list(objective.players) == ["discriminator", "generator"]
    assert list(objective.players["generator"]) == ["generator", "sampler"]


def test_terms_are_named_and_weighted(batch):
    terms = {}
    for lambda_nce in (1.0, 3.0):
        objective = build_cut(lambda_nce=lambda_nce, lambda_gan=2 * lambda_nce)
        out = objective.generate(batch)
        terms[lambda_nce] = objective.losses("generator", batch, out)
        assert out["pred"].shape == batch["target"].shape
        assert list(objective.losses("discriminator", batch, out)) == ["d_fake", "d_real"]
    assert list(terms[1.0]) == ["g_gan", "g_nce", "g_nce_identity"]
    for name, value in terms[1.0].items():
        assert value.shape == ()
        assert terms[3.0][name].item() == pytest.approx(3 * value.item(), rel=1e-5)


def test_the_discriminator_sees_single_images_and_targets_only(batch):
    objective, seen = build_cut(), []
    objective.players["discriminator"].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    out = objective.generate(batch)
    objective.losses("discriminator", batch, out)
    objective.losses("generator", batch, out)
    expected = (out["pred"], batch["target"], out["pred"])
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_the_turn_of_the_discriminator_leaves_the_generator_alone(batch):
    objective = build_cut()
    turn(objective, "discriminator", batch)
    assert all(p.grad is None for p in objective.players["generator"].parameters())
    assert all(p.grad.any() for p in objective.players["discriminator"].parameters())


@pytest.mark.parametrize("make", [Cut, Cut.fast])
def test_every_parameter_of_generator_and_sampler_gets_a_gradient(batch, make):
    objective = build_cut(make=make)
    turn(objective, "generator", batch)
    silent = [key for key, p in objective.players["generator"].named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(p.grad is None for p in objective.players["discriminator"].parameters())


def count_passes(objective):
    """Which images go through the generator: whole, or its encoder alone."""
    generator = objective.players["generator"]["generator"]
    calls, encode = [], generator.encode
    generator.register_forward_pre_hook(lambda module, args: calls.append(("forward", args[0].detach())))
    generator.encode = lambda images, layers: (calls.append(("encode", images.detach())), encode(images, layers))[1]
    return calls


def test_nothing_is_computed_twice(batch):
    objective = build_cut()
    calls = count_passes(objective)
    out = objective.generate(batch)
    for player in objective.players:
        objective.losses(player, batch, out)
    assert [(kind, len(images)) for kind, images in calls] == [("forward", 4), ("encode", 4)]


@pytest.mark.parametrize("make", [Cut, Cut.fast])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_pass_gives_the_losses_and_gradients_of_the_published_five(batch, make, checkpointing):
    found = []
    for is_per_image in (True, False):
        objective = build_cut(make=make, activation_checkpointing=checkpointing, draw_flip=lambda: False)
        objective.is_per_image = is_per_image
        terms = turn(objective, "generator", batch)
        found.append({**terms, **gradients(objective)})
    for key, value in found[0].items():
        torch.testing.assert_close(
            value, found[1][key], atol=2e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"dropout": 0.5}])
def test_where_a_feature_depends_on_more_than_its_image_the_passes_are_the_published_ones(batch, options):
    objective = build_cut(**options)
    calls = count_passes(objective)
    out = objective.generate(batch)
    objective.losses("generator", batch, out)
    fake, identity = out["fake"].chunk(2)
    expected = [torch.cat([batch["condition"], batch["target"]]), fake, batch["condition"], identity, batch["target"]]
    assert [kind for kind, _ in calls] == ["forward", "encode", "encode", "encode", "encode"]
    assert all(torch.equal(images, wanted) for (_, images), wanted in zip(calls, expected, strict=True))


def test_query_and_key_are_the_same_places_and_anew_in_every_comparison(batch):
    objective = build_cut(draw_places=None, num_patches=7)
    calls = []
    objective.players["generator"]["sampler"].register_forward_hook(lambda module, args, out: calls.append(out[1]))
    for _ in range(2):
        objective.losses("generator", batch, objective.generate(batch))
    assert len(calls) == 8
    for keys, queries in zip(calls[::2], calls[1::2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(keys, queries, strict=True))
        assert all(len(place) == 7 for place in keys)
    assert not any(torch.equal(calls[0][0], other[0]) for other in calls[2::2])


def test_keys_are_fixed_points_for_the_gradient(batch):
    objective = build_cut()
    out = objective.generate(batch)
    keys = [key for key in out if key.startswith("key_")]
    assert keys == [f"key_{index}" for index in NCE_LAYERS]
    assert not any(out[key].requires_grad for key in keys)
    expected = objective.players["generator"]["generator"].encode(
        torch.cat([batch["condition"], batch["target"]]), NCE_LAYERS
    )
    assert all(torch.equal(out[key], feature) for key, feature in zip(keys, expected, strict=True))


# --- FastCUT ---------------------------------------------------------------------------------------------------------


def test_fastcut_has_the_published_settings():
    objective = build_cut(make=Cut.fast)
    assert (objective.lambda_nce, objective.use_identity, objective.flip_equivariance) == (10.0, False, True)
    assert build_cut(make=Cut.fast, lambda_nce=5.0).lambda_nce == 5.0
    assert (build_cut().lambda_nce, build_cut().use_identity, build_cut().flip_equivariance) == (1.0, True, False)


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_mirrored_iteration_compares_features_that_lie_alike(batch, axis):
    objective = build_cut(make=Cut.fast, draw_flip=lambda: True, flip_axis=axis)
    out = objective.generate(batch)
    terms = objective.losses("generator", batch, out)
    generator, sampler = objective.players["generator"].values()
    fake = generator(batch["condition"].flip(axis))
    assert torch.equal(out["fake"], fake), "the discriminator sees it as the generator gave it"
    assert torch.equal(out["pred"], fake.flip(axis))

    places = build_cut().draw_places()
    keys, _ = sampler(generator.encode(batch["condition"], NCE_LAYERS), ids=places)
    queries, _ = sampler([f.flip(axis) for f in generator.encode(fake, NCE_LAYERS)], ids=places)
    nce = PatchNCELoss()
    expected = 10 * torch.stack([nce(q, k, num_images=2) for q, k in zip(queries, keys, strict=True)]).mean()
    assert list(terms) == ["g_gan", "g_nce"]
    torch.testing.assert_close(terms["g_nce"], expected, atol=1e-5, rtol=1e-5)


def test_batch_and_channels_are_not_mirrored(batch):
    with pytest.raises(ConfigError, match=r"flip_axis=-3 is no spatial axis of images \[2, 1, 16, 24\]"):
        build_cut(make=Cut.fast, draw_flip=lambda: True, flip_axis=-3).generate(batch)


def test_half_of_the_iterations_are_mirrored():
    torch.manual_seed(0)
    objective = build_cut(make=Cut.fast, draw_places=None)
    assert 60 < sum(objective.draw_flip() for _ in range(150)) < 90


# --- in the trainer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Cut, Cut.fast])
def test_half_precision_trains(make):
    torch.manual_seed(0)
    objective = build_cut(make=make, draw_places=None, num_patches=12)
    steps = train(objective, make_batches(), precision="bf16")
    assert all(np.isfinite(value) for step in steps for value in step.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in objective.players["generator"].parameters())


def test_contrast_falls_in_training():
    objective = build_cut(draw_places=None, num_patches=24)
    steps = train(objective, make_batches() * 20, optimizers=make_optimizers(objective, lr=2e-3))
    assert np.mean([step["g_nce"] for step in steps[-6:]]) < 0.9 * np.mean([step["g_nce"] for step in steps[:6]])


def test_two_processes_with_half_of_each_batch_equal_one(tmp_path):
    alone, half = train_plainly("cut"), train_plainly("cut", slice(0, None, 2))
    first, second = train_on_ranks("cut", tmp_path)
    assert first.keys() == second.keys() == alone.keys()
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, atol=1e-12, rtol=0)
    for network in ("generator.generator.layers.1", "generator.sampler.mlps.0.0", "discriminator.head"):
        assert (alone[f"{network}.weight"] - half[f"{network}.weight"]).abs().max() > 1e-4, "halves differ"


def test_volumes_are_translated_too():
    options = {"spatial_dims": 3, "channels": 2, "num_blocks": 1, "antialias_down": False, "antialias_up": False}
    objective = Cut(
        small_resnet(**options),
        small_judge(spatial_dims=3, antialias=True),
        PatchSampler(in_channels=[1, 4, 8]),
        nce_layers=[0, 4, 7],
        num_patches=9,
    )
    batch = {"condition": torch.rand(1, 1, 8, 12, 16), "target": torch.rand(1, 1, 8, 12, 16)}
    assert turn(objective, "generator", batch)["g_nce"].isfinite()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_without_target_there_is_a_prediction_but_no_loss(batch):
    objective = build_cut()
    out = objective.generate({"condition": batch["condition"]})
    assert out["pred"].shape == batch["condition"].shape
    with pytest.raises(ConfigError, match=r"Cut needs 'target'.*it has: condition.*UnpairedDataset"):
        objective.losses("generator", {"condition": batch["condition"]}, out)
    with pytest.raises(ConfigError, match="Cut needs 'condition'"):
        objective.generate({"target": batch["target"]})


def test_shapes_that_one_generator_cannot_take_are_refused(batch):
    objective = build_cut()
    with pytest.raises(GeometryError, match=r"\[2, 1, 16, 24\].*\[2, 2, 16, 24\].*as many channels"):
        objective.generate({**batch, "target": batch["target"].expand(-1, 2, -1, -1)})
    with pytest.raises(GeometryError, match=r"\[2, 1, 16, 16\].*one size"):
        objective.generate({**batch, "target": batch["target"][..., :16]})
    fast = build_cut(make=Cut.fast)
    smaller = {**batch, "target": batch["target"][..., :16]}
    out = fast.generate(smaller)
    assert all(fast.losses(player, smaller, out) for player in fast.players)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_nce": -1}, "lambda_nce=-1"),
        ({"lambda_gan": -1}, "lambda_gan=-1"),
        ({"temperature": 0}, "temperature=0"),
        ({"nce_layers": (0, 4)}, r"nce_layers=\[0, 4\] gives 2 features.*built for 4: in_channels=\[1, 8, 16, 16\]"),
        ({"nce_layers": (0, 4, 8, 99)}, "of the 0 to 2"),
        ({"nce_layers": (0, 4, 4, 8)}, "each once"),
        ({"adversarial": "gan"}, "'gan' is not known"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build_cut(**options)


def test_other_generators_and_players_are_refused(batch):
    objective = build_cut()
    with pytest.raises(ConfigError, match="UNetGenerator has no 'layers' and 'encode'"):
        Cut(UNetGenerator(channels=4, num_downs=3), *list(objective.players.values())[:1], nn.Identity())
    with pytest.raises(ConfigError, match="no player 'critic'"):
        objective.losses("critic", batch, objective.generate(batch))

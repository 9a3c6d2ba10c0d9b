"""The method USIS: its terms, who is trained by what, the lazy penalty, pairs, resume, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn import functional

from monai_synth.checkpoints.importers import import_state
from monai_synth.engines import SynthesisTrainer
from monai_synth.errors import CheckpointError, ConfigError, GeometryError
from monai_synth.handlers import TrainingCheckpoint
from monai_synth.losses import BodyConsistencyLoss, SegmentationAdversarialLoss
from monai_synth.losses.gradient_penalty import r1_penalty
from monai_synth.networks import OASISDiscriminator, ResidualWaveletGenerator, WaveletDecoder, WaveletDiscriminator
from monai_synth.objectives import Objective, Usis

NUM_LABELS = 3


def make(size: tuple[int, ...] = (32, 32), *, has_decoder: bool = False, **options: Any) -> Usis:
    torch.manual_seed(0)
    spatial_dims = len(size)
    discriminator = WaveletDiscriminator(
        spatial_dims=spatial_dims, in_channels=1, image_size=size, channels=4, max_channels=8
    )
    return Usis(
        ResidualWaveletGenerator(
            spatial_dims=spatial_dims,
            in_channels=NUM_LABELS,
            out_channels=1,
            channels=2 ** (spatial_dims - 1),
            num_blocks=3,
            noise_channels=3,
            hidden_channels=4,
            init_gain=1.0,
        ),
        OASISDiscriminator(spatial_dims=spatial_dims, in_channels=1, num_classes=NUM_LABELS, channels=4, init_gain=1.0),
        discriminator,
        decoder=WaveletDecoder.of(discriminator, channels=4, dropout=0.0) if has_decoder else None,
        **options,
    )


def make_batch(*size: int, classes: int = NUM_LABELS, seed: int = 0) -> dict[str, Any]:
    size = size or (32, 32)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2, *(length // 8 for length in size)), generator=generator)
    for axis in range(1, labels.ndim):
        labels = labels.repeat_interleave(8, dim=axis)
    return {
        "condition": functional.one_hot(labels, NUM_LABELS).movedim(-1, 1).float(),
        "target": torch.rand(2, 1, *size, generator=generator) * 2 - 1,
    }


def make_trainer(
    objective: Usis, batches: list[dict[str, Any]], *, rate: float = 1e-4, **options: Any
) -> SynthesisTrainer:
    return SynthesisTrainer(
        device="cpu",
        train_data_loader=batches,
        objective=objective,
        optimizers={
            name: torch.optim.Adam(player.parameters(), lr=rate, betas=(0.0, 0.999))
            for name, player in objective.players.items()
        },
        **{"max_epochs": 1, **options},
    )


def train(objective: Usis, batches: list[dict[str, Any]], **options: Any) -> list[dict[str, float]]:
    """Every loss of every step."""
    trainer = make_trainer(objective, batches, **options)
    steps: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: steps.append({k: v.item() for k, v in e.state.output.items() if k[:2] in ("g_", "d_", "s_")}),
    )
    trainer.run()
    return steps


class Say(nn.Module):
    """A stand-in that gives its parameter, whatever it sees."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, *_: Any) -> Tensor:
        return self.value


@pytest.fixture
def golden(shared_dir):
    return np.load(shared_dir / "golden" / "loss_mis.npz")


@pytest.mark.parametrize("published_r1", [False, True])
def test_losses_on_images_equal_the_published_ones(golden, published_r1):
    state = {key[3:]: torch.from_numpy(golden[key]) for key in golden.files if key.startswith("sd/")}
    discriminator = import_state(state, "Du").network.train()
    fake, real = torch.from_numpy(golden["in/fake"]), torch.from_numpy(golden["in/real"])
    objective = Usis(
        Say(fake),
        OASISDiscriminator(num_classes=2, channels=2),
        discriminator,
        r1_interval=4,
        published_r1=published_r1,
        lambda_feature=1.0,
    )
    labels = functional.one_hot(torch.zeros(3, 32, 32, dtype=torch.long), 2).movedim(-1, 1).float()
    batch = {"condition": labels, "target": real}
    out = objective.generate(batch)
    generator = objective.losses("generator", batch, out)
    assert generator["g_gan"].item() == pytest.approx(golden["out/loss_G_GAN"].item(), abs=1e-6)
    assert generator["g_feat"].item() == pytest.approx(golden["out/featmatch_mse_sum"].item(), abs=1e-6)
    judged = objective.losses("discriminator", batch, out)
    # Published: the losses times the interval, the penalty (weight 10) not; the other way round is right.
    factor, factor_r1 = (4, 10) if published_r1 else (1, 40)
    assert judged["d_fake"].item() == pytest.approx(factor * golden["out/loss_Du_fake"].item(), abs=1e-5)
    assert judged["d_real"].item() == pytest.approx(factor * golden["out/loss_Du_real"].item(), abs=1e-5)
    assert judged["d_r1"].item() == pytest.approx(factor_r1 * golden["out/r1"].item(), rel=1e-4)
    judged["d_r1"].backward()
    np.testing.assert_allclose(
        discriminator.stem.weight.grad / factor_r1, golden["grad/r1/from_rgbs.0.conv.0.weight"], atol=1e-6
    )


def test_fulfils_the_protocol_with_the_generator_first():
    objective = make(has_decoder=True)
    assert isinstance(objective, Objective)
    assert list(objective.players) == ["generator", "segmenter", "discriminator"]
    assert list(objective.players["discriminator"]) == ["discriminator", "decoder"]


@pytest.mark.parametrize("size", [(32, 32), (32, 16, 16)])
@pytest.mark.parametrize("has_decoder", [False, True])
def test_gradients_reach_every_weight_of_the_player(size, has_decoder):
    objective, batch = make(size, has_decoder=has_decoder), make_batch(*size)
    out = objective.generate(batch)
    for name, player in objective.players.items():
        for other in objective.players.values():
            other.requires_grad_(other is player)
            other.zero_grad()
        sum(objective.losses(name, batch, out).values()).backward()
        assert all(p.grad is None for other in objective.players.values() if other is not player
                   for p in other.parameters())  # fmt: skip
        missing = [key for key, p in player.named_parameters() if p.grad is None or not p.grad.any()]
        # A constant in front of a batch norm has no effect, but for rounding.
        assert not [key for key in missing if not key.endswith("bias")], missing


def test_terms_are_those_of_the_data_at_hand():
    batch = make_batch()
    plain, rich = make(), make(
        has_decoder=True,
        body_consistency=BodyConsistencyLoss(threshold=-0.5),
        supervised=True,
        lambda_feature=2.0,
        perceptual=nn.MSELoss(),
    )  # fmt: skip
    expected = {
        "generator": (["g_segmentation", "g_gan"], ["g_body", "g_feat", "g_perceptual"]),
        "segmenter": (["s_fake"], ["s_real", "s_labelmix"]),
        "discriminator": (["d_fake", "d_real", "d_r1"], ["d_decoder"]),
    }
    for objective, asked in ((plain, 0), (rich, 1)):
        out = objective.generate(batch)
        for player, (always, sometimes) in expected.items():
            terms = objective.losses(player, batch, out)
            assert sorted(terms) == sorted(always + asked * sometimes)
            assert all(value.shape == () and value.dtype == torch.float32 for value in terms.values())


def test_the_other_two_see_the_same_images_of_the_updated_generator():
    objective, batch, seen = make(), make_batch(), {}
    for name in ("segmenter", "discriminator"):
        objective.players[name].register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, []).append(args[0])
        )
    out = objective.generate(batch)
    objective.losses("segmenter", batch, out)
    objective.losses("discriminator", batch, out)
    remade = seen["segmenter"][0]
    assert not remade.requires_grad
    assert seen["discriminator"][0] is remade
    assert not torch.allclose(remade, out["pred"], atol=1e-3), "new noise"
    again = objective.generate(batch)
    objective.losses("discriminator", batch, again)
    assert seen["discriminator"][3] is not remade, "never those of an earlier iteration"


@pytest.mark.parametrize("supervised", [False, True])
def test_the_segmenter_learns_the_labels_from_fakes_and_never_calls_them_fake(supervised):
    """Cooperative: what the generator minimises is what the segmenter minimises."""
    objective, batch = make(supervised=supervised, lambda_labelmix=0), make_batch()
    logits = torch.randn(2, NUM_LABELS + 1, 32, 32, generator=torch.Generator().manual_seed(0))
    segmenter = objective.players["segmenter"] = Say(logits)
    out = objective.generate(batch)
    terms = objective.losses("segmenter", batch, out) | objective.losses("generator", batch, out)
    labels = batch["condition"]
    assert terms["s_fake"] == terms["g_segmentation"] == SegmentationAdversarialLoss()(logits, labels, is_real=True)
    terms["s_fake"].backward()
    assert (segmenter.value.grad[:, 1:][labels == 1] < 0).all(), "more of the label"
    assert (segmenter.value.grad[:, 0] > 0).all(), "less of fake"
    assert ("s_real" in terms) == supervised


@pytest.mark.parametrize("interval", [1, 4])
def test_a_lazy_penalty_weighs_as_much_as_one_in_every_turn(interval):
    objective, batch = make(r1_interval=interval), make_batch()
    penalties = []
    for _ in range(8):
        out = objective.generate(batch)
        penalties.append(float(objective.losses("discriminator", batch, out).get("d_r1", torch.zeros(())).detach()))
    assert [value > 0 for value in penalties] == [turn % interval == 0 for turn in range(8)]
    every_turn = 10 * float(r1_penalty(objective.players["discriminator"], batch["target"]).detach())
    assert np.mean(penalties) == pytest.approx(every_turn, rel=1e-5)


def test_without_weight_there_is_no_penalty():
    objective, batch = make(r1_gamma=0), make_batch()
    assert "d_r1" not in objective.losses("discriminator", batch, objective.generate(batch))


def test_the_decoder_is_trained_with_its_discriminator():
    objective = make(has_decoder=True, r1_gamma=0)
    decoder = objective.players["discriminator"]["decoder"]
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    image = functional.interpolate(torch.rand(2, 1, 4, 4) * 2 - 1, size=(32, 32), mode="bilinear")
    batch = {**make_batch(), "target": image}
    steps = train(objective, [batch] * 12, rate=2e-3)
    assert all(not torch.equal(value, before[key]) for key, value in decoder.state_dict().items())
    assert steps[-1]["d_decoder"] < 0.9 * steps[0]["d_decoder"]


def test_the_turn_counts_go_on_after_a_resume(tmp_path):
    batches = [make_batch(seed=seed) for seed in range(3)]

    def run(epochs: int, *, resume: bool) -> tuple[Usis, list[bool]]:
        objective = make(r1_interval=4)
        trainer = make_trainer(objective, batches, max_epochs=epochs)
        turns: list[bool] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: turns.append("d_r1" in e.state.output))
        checkpoint = TrainingCheckpoint(tmp_path, {**objective.players, "objective": objective})
        checkpoint.attach(trainer)
        checkpoint.start(trainer, resume=resume)
        trainer.run()
        return objective, turns

    _, first = run(1, resume=False)
    objective, second = run(3, resume=True)
    assert first + second == [turn % 4 == 0 for turn in range(9)]
    assert objective.state_dict() == {"discriminator_turns": 9}
    with pytest.raises(CheckpointError, match="discriminator_turns"):
        objective.load_state_dict({"images": []})


@pytest.mark.parametrize("dont_care", [None, 0])
@pytest.mark.parametrize("supervised", [False, True])
def test_a_batch_of_one_class_trains(dont_care, supervised):
    """Class 0 alone: nothing but background, or nothing but what is not known."""
    objective = make(dont_care=dont_care, supervised=supervised, body_consistency=BodyConsistencyLoss(threshold=-0.5))
    (terms,) = train(objective, [make_batch(classes=1)])
    assert all(np.isfinite(value) for value in terms.values())
    assert (terms["g_segmentation"] == 0) == (dont_care == 0)


def test_reduced_precision_stays_near_full_precision():
    options: dict[str, Any] = {"has_decoder": True, "supervised": True, "r1_interval": 2, "r1_gamma": 1.0,
                               "body_consistency": BodyConsistencyLoss(threshold=-0.5)}  # fmt: skip
    batches = [make_batch(seed=seed) for seed in range(3)]
    torch.manual_seed(1)
    full = train(make(**options), batches)
    torch.manual_seed(1)
    reduced = train(make(**options), batches, precision="bf16")
    assert reduced[0] == pytest.approx(full[0], abs=0.1, rel=0.05)
    assert all(np.isfinite(value) for terms in reduced for value in terms.values())


def test_background_is_a_class_unless_told_otherwise():
    """The published code leaves class 0 out: nothing keeps the background dark."""
    batch = make_batch()
    batch["condition"] = torch.stack([batch["condition"][:, 0], 1 - batch["condition"][:, 0]], dim=1)
    batch["condition"] = functional.pad(batch["condition"], (0, 0, 0, 0, 0, 1))
    logits = torch.zeros(2, NUM_LABELS + 1, 32, 32)
    for dont_care, is_taught in ((None, True), (0, False)):
        objective = make(dont_care=dont_care)
        objective.players["segmenter"] = Say(logits.clone())
        objective.losses("generator", batch, objective.generate(batch))["g_segmentation"].backward()
        grad = objective.players["segmenter"].value.grad
        assert bool(grad.movedim(1, -1)[batch["condition"][:, 0] == 1].any()) == is_taught


def test_frozen_networks_are_used_inside_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        bare, calls = make(has_decoder=True), []

        def wrap(network: nn.Module, name: str) -> nn.Module:
            wrapped = nn.parallel.DistributedDataParallel(network)
            wrapped.register_forward_pre_hook(lambda *_: calls.append(name))
            return wrapped

        judge = bare.players["discriminator"]
        objective, batch = Usis(
            wrap(bare.players["generator"], "generator"),
            wrap(bare.players["segmenter"], "segmenter"),
            wrap(judge["discriminator"], "discriminator"),
            decoder=wrap(judge["decoder"], "decoder"),
        ), make_batch()  # fmt: skip
        out = objective.generate(batch)
        objective.losses("generator", batch, out)
        assert calls == ["generator"]
        objective.losses("segmenter", batch, out)
        assert calls[1:] == ["segmenter"]
        sum(objective.losses("discriminator", batch, out).values()).backward()
        assert calls[2:] == ["discriminator", "discriminator", "decoder"]
        assert all(p.grad is not None for p in judge.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_pairs_are_asked_for_only_where_they_are_needed():
    batch = {**make_batch(), "case_id": ["a", "b"], "target_case_id": ["a", "c"]}
    plain = make()
    assert plain.losses("generator", batch, plain.generate(batch))
    for options in ({"supervised": True}, {"lambda_feature": 1.0}, {"perceptual": nn.MSELoss()}):
        objective = make(**options)
        with pytest.raises(ConfigError, match="'b' and 'c'"):
            objective.losses("segmenter", batch, objective.generate(batch))


def test_what_does_not_fit_is_refused():
    objective, batch = make(), make_batch()
    out = objective.generate(batch)
    with pytest.raises(ConfigError, match="no player 'critic'"):
        objective.losses("critic", batch, out)
    with pytest.raises(ConfigError, match="'target'"):
        objective.losses("generator", {"condition": batch["condition"]}, out)
    with pytest.raises(GeometryError, match="one-hot labels"):
        objective.losses("generator", {**batch, "condition": batch["condition"][:, :1]}, out)
    for options in ({"r1_interval": 0}, {"edge_channels": -1}, {"r1_gamma": -1.0}, {"lambda_body": -0.5}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            make(**options)

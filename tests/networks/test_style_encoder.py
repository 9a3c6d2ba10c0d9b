import warnings

import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.networks import SPADEGenerator, StyleEncoder, build, fold_spectral_norm


def tiny(**options):
    torch.manual_seed(0)
    return StyleEncoder(
        **{"in_channels": 2, "channels": 2, "noise_channels": 5, "num_layers": 3, "image_size": (16, 24), **options}
    )


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_equals_the_official_network(golden_case, mode):
    case = golden_case("spade_encoder")
    network = case.network().train(mode == "train")
    assert case.imported.network_def["image_size"] == [256, 256]
    out = network(case.tensor("in/x"))
    for i in range(2):
        assert float((out[i].detach() - case.tensor(f"out/{mode}/{i}")).abs().max()) <= case.tolerance(mode)
    if mode == "train":
        after = network.state_dict()
        moved = [key for key in case.values if key.startswith("out/sd_after_train/")]
        for key in moved:
            ours = after[case.imported.report.used[key.removeprefix("out/sd_after_train/")]]
            assert torch.allclose(ours, case.tensor(key).reshape(ours.shape), atol=1e-5)


def test_parameter_count_is_the_published_one():
    with torch.device("meta"):
        network = build("spade_encoder", in_channels=3)
    assert sum(p.numel() for p in network.parameters()) == 10_463_424


def test_images_of_another_size_are_resized_linearly():
    network = tiny().eval()
    x = torch.randn(2, 2, 31, 17)
    resized = torch.nn.functional.interpolate(x, size=(16, 24), mode="bilinear", align_corners=False)
    assert torch.equal(network(x)[0], network(resized)[0])
    assert not torch.equal(network(x)[0], network(x)[1])


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_convolutions_have_a_bias_where_no_norm_follows(norm):
    network = tiny(norm=norm)
    assert all((layer.conv.bias is not None) == (norm == "none") for layer in network.layers)
    mu, logvar = network(torch.randn(2, 2, 16, 24))
    assert mu.shape == logvar.shape == (2, 5)
    (mu.sum() + (logvar**2).sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_sampling_has_the_given_mean_and_variance_and_a_gradient():
    torch.manual_seed(0)
    mu = torch.full((20_000, 2), 3.0, requires_grad=True)
    logvar = torch.full((20_000, 2), 4.0, requires_grad=True)
    noise = StyleEncoder.sample(mu, logvar)
    assert float(noise.detach().mean()) == pytest.approx(3, abs=0.15)
    assert float(noise.detach().std()) == pytest.approx(2.718**2, rel=0.02)
    noise.sum().backward()
    assert torch.equal(mu.grad, torch.ones_like(mu))
    assert torch.allclose(logvar.grad, (noise - mu).detach() / 2, atol=1e-5)


def test_it_makes_a_vae_with_the_generator():
    encoder = tiny(spatial_dims=3, image_size=(8, 16, 8), num_layers=2, norm="batch")
    generator = SPADEGenerator(
        spatial_dims=3, in_channels=3, channels=1, hidden_channels=2, noise_channels=5, latent_size=(1, 1, 1)
    )
    mu, logvar = encoder(torch.randn(2, 2, 9, 12, 10))
    out = generator(torch.randn(2, 3, 32, 32, 32), encoder.sample(mu, logvar))
    (out**2).sum().backward()
    # A grid of one value is what batch norm subtracts between the images of a batch, not everything.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.layers[0].conv.parametrizations.weight.original.grad.any()


def test_images_of_a_batch_do_not_meet():
    network = tiny().eval()
    x = torch.randn(3, 2, 16, 24)
    together = network(x)
    for i in range(3):
        for a, b in zip(together, network(x[i : i + 1]), strict=True):
            assert torch.allclose(a[i : i + 1], b, atol=1e-5)


def test_channels_last_and_folded_weights_are_the_same_function():
    network, twin = tiny().eval(), tiny(channels_last=True).eval()
    twin.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(2, 2, 16, 24)
    for other in (twin, fold_spectral_norm(network)):
        for a, b in zip(network(x), other(x), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_bfloat16_autocast_stays_close():
    network = tiny().eval()
    x = torch.randn(2, 2, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(x)
    for a, b in zip(network(x), rounded, strict=True):
        assert float((a - b.float()).abs().max()) <= 0.05 * max(float(a.abs().max()), 1)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_gives_the_same_output(how, spatial_dims):
    size = (16, 24, 8)[:spatial_dims]
    network = fold_spectral_norm(tiny(spatial_dims=spatial_dims, image_size=size).eval())
    x = torch.randn(2, 2, *(length + 3 for length in size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.script(network) if how == "script" else torch.jit.trace(network, x)
    for a, b in zip(network(x[:1]), compiled(x[:1]), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers=0 leaves nothing"),
        ({"num_layers": 5}, r"image_size=\[16, 24\] is one value per channel after num_layers=5"),
        ({"image_size": (16,)}, r"image_size=\[16\] is no size with spatial_dims=2"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"spatial_dims": 4}, "spatial_dims=4"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)

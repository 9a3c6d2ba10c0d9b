import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import WaveletDiscriminator


def make(**options):
    torch.manual_seed(0)
    return WaveletDiscriminator(**{"image_size": (32, 32), "channels": 4, "max_channels": 8, **options})


def score_first(mode, out):
    """The official output is the score, then the features of every block."""
    (layers,) = out
    return {f"out/{mode}/{i}": layer for i, layer in enumerate([layers[-1], *layers[:-1]])}


def test_equals_the_official_network(golden_case):
    case = golden_case("mis_D_wavelet64")
    differences = case.check("eval", match=score_first)
    assert case.imported.network_def["image_size"] == [64, 64]
    assert differences.pop("out") <= case.tolerance("eval")
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.parametrize(
    ("image_size", "channels", "features", "count"),
    [
        ((256, 256), 128, [(512, 64, 64), (512, 32, 32), (512, 16, 16), (512, 8, 8), (512, 4, 4)], 26_211_073),
        (
            (512, 512),
            64,
            [(256, 128, 128), (512, 64, 64), (512, 32, 32), (512, 16, 16), (512, 8, 8), (512, 4, 4)],
            None,
        ),
        ((256, 512), 64, [(256, 64, 128), (512, 32, 64), (512, 16, 32), (512, 8, 16), (512, 4, 8), (512, 2, 4)], None),
    ],
)
def test_published_widths_and_parameter_counts(image_size, channels, features, count):
    with torch.device("meta"):
        network = WaveletDiscriminator(image_size=image_size, channels=channels)
        (layers,) = network(torch.empty(1, 3, *image_size))
    assert [tuple(layer.shape[1:]) for layer in layers] == [*features, (1,)]
    assert network.linear.weight.shape[1] == 512 * features[-1][1] * features[-1][2]
    if count:
        assert sum(p.numel() for p in network.parameters()) == count


def test_equal_images_are_noticed():
    network = make().eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        # The same image twice has no deviation; beside another one it is judged otherwise.
        alone = network(image)[0][-1]
        twice = network(image.expand(2, -1, -1, -1))[0][-1]
        beside = network(torch.cat([image, torch.randn(1, 3, 32, 32)]))[0][-1]
    assert torch.allclose(twice, alone.expand(2, 1), atol=1e-5)
    assert float((beside[0] - alone).abs().max()) > 1e-4


@pytest.mark.parametrize("batch", [1, 3, 5, 8])
def test_batches_of_any_number_are_judged(batch):
    assert make()(torch.randn(batch, 3, 32, 32))[0][-1].shape == (batch, 1)


def test_the_penalty_on_gradients_can_be_trained():
    network = make()
    image = torch.randn(2, 3, 32, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(network(image)[0][-1].sum(), image, create_graph=True)
    (grad**2).sum().backward()
    weights = {key: p for key, p in network.named_parameters() if p.ndim > 1 and not key.endswith("bias")}
    assert all(p.grad is not None and p.grad.any() for p in weights.values())


def test_start_values_are_those_of_an_equalised_network():
    network = make(image_size=(64, 64), channels=32, max_channels=64)
    for key, p in network.named_parameters():
        if key.endswith("bias"):
            assert not p.any()
        elif p.numel() > 1000:
            assert abs(float(p.detach().std()) - 1) < 0.1, key


def test_another_size_is_refused():
    with pytest.raises(GeometryError, match=r"size \[32, 48\].*built for \[32, 32\].*image_size"):
        make()(torch.zeros(1, 3, 32, 48))


@pytest.mark.parametrize("image_size", [(8, 8), (36, 36), (32,), (32, 32, 32), (32, 4), (64, 0)])
def test_a_size_that_does_not_fit_the_depth_is_refused(image_size):
    with pytest.raises(ConfigError, match="image_size="):
        make(image_size=image_size)

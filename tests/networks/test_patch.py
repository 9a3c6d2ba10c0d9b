import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import PatchDiscriminator
from monai_synth.networks.registry import count_parameters

NAMES = ["p2p_D_basic_batch", "p2p_D_pixel_batch", "p2p_D_basic_instance", "p2p_D_nlayers4_instance"]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_official_network(golden_case, name, mode):
    case = golden_case(name)
    differences = case.check(mode)
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_p2p_D_basic_batch")
    difference = case.check_published(shared_dir / "golden" / "keys_pix2pix.json", "D_basic_batch_6")
    assert difference <= case.tolerance("eval")


def test_equals_the_official_network_without_aliasing(golden_case):
    case = golden_case("cut_D_antialias")
    differences = case.check("eval")
    assert case.imported.family == "cut_patchgan"
    assert differences.pop("out") <= case.tolerance("eval")
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.parametrize(
    ("channels", "num_layers", "norm", "count"),
    [(2, 3, "batch", 2_764_609), (6, 3, "batch", 2_768_705), (6, 3, "instance", 2_767_809), (6, 0, "batch", 9_024)],
)
def test_parameter_counts_are_the_published_ones(channels, num_layers, norm, count):
    network = PatchDiscriminator(in_channels=channels, num_layers=num_layers, norm=norm)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(("antialias", "width"), [(False, 70), (True, 84)])
def test_one_value_sees_a_patch_of_published_width(antialias, width):
    network = PatchDiscriminator(in_channels=1, channels=2, norm="none", antialias=antialias).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    x = torch.zeros(1, 1, 256, 256, requires_grad=True)
    logits = network(x)[0][-1]
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    seen = x.grad[0, 0].abs() > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (width, width)


def test_without_aliasing_a_shift_by_a_pixel_changes_the_judgement_less():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 97, 97)
    changes = {}
    for antialias in (False, True):
        torch.manual_seed(1)
        network = PatchDiscriminator(in_channels=1, channels=8, norm="none", antialias=antialias, init_gain=0.2).eval()
        with torch.no_grad():
            here, there = (network(image[..., i : i + 96])[0][-1] for i in (0, 1))
        changes[antialias] = float((here - there).std() / here.std())
    assert changes[True] < 0.1 * changes[False], changes


def test_without_aliasing_maps_and_parameters_are_the_same():
    plain, smooth = (PatchDiscriminator(in_channels=2, channels=4, antialias=antialias) for antialias in (False, True))
    assert list(plain.state_dict()) == list(smooth.state_dict())
    x = torch.randn(2, 2, 45, 64)
    assert [t.shape for t in plain(x)[0]] == [t.shape for t in smooth(x)[0]]
    assert [type(layer.down).__name__ for layer in smooth.layers] == ["BlurDown"] * 3 + ["Identity"]


def test_returns_the_features_of_every_layer_and_the_logits_last():
    (layers,) = PatchDiscriminator(in_channels=2, channels=4)(torch.randn(2, 2, 64, 64))
    assert [t.shape[1] for t in layers] == [4, 8, 16, 32, 1]
    assert layers[-1].min() < 0
    (layers,) = PatchDiscriminator(in_channels=2, channels=4, use_sigmoid=True)(torch.randn(2, 2, 64, 64))
    assert 0 < layers[-1].min() < layers[-1].max() < 1


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("num_layers", [0, 1, 2, 3])
def test_the_smallest_size_is_the_smallest_that_works(num_layers, antialias):
    network = PatchDiscriminator(in_channels=1, channels=2, num_layers=num_layers, norm="none", antialias=antialias)
    assert network(torch.zeros(1, 1, network.min_size, network.min_size))[0][-1].numel() == 1
    if num_layers:
        with pytest.raises(GeometryError, match=f"needs at least {network.min_size}"):
            network(torch.zeros(1, 1, 64, network.min_size - 1))


def test_parameter_count_of_cut_is_the_published_one():
    assert count_parameters("cut_patchgan") == 2_764_737


def test_a_negative_depth_is_refused():
    with pytest.raises(ConfigError, match="num_layers=-1"):
        PatchDiscriminator(in_channels=1, num_layers=-1)

import pytest
import torch
from torch.nn import functional

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import OASISGenerator

NOISE = {
    "oasis_G_syncbatch": 6,
    "oasis_G_syncbatch_nh128": 2,
    "oasis_G_nosn_batch": 6,
    "oasis_G_instance_nonoise": 0,
    "mis_G_oasis_medical": 4,
    "mis_G_oasis_edges": 4,
}


def make(**options) -> OASISGenerator:
    torch.manual_seed(0)
    tiny = {"in_channels": 2, "out_channels": 1, "channels": 2, "noise_channels": 3, "hidden_channels": 4}
    return OASISGenerator(**{**tiny, "init_gain": 1.0, **options}).eval()


# Without the hint the width of the noise is guessed: explicit noise of any width that adds up is taken.
@pytest.mark.parametrize("has_hint", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", NOISE)
def test_equals_the_official_network(golden_case, name, mode, has_hint):
    case = golden_case(name)
    differences = case.check(mode, **({"noise_channels": NOISE[name]} if has_hint else {}))
    assert case.imported.network_def["noise_channels"] == (NOISE[name] if has_hint else 0)
    assert case.imported.network_def["edge_channels"] == ("edges" in case.inputs())
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_oasis_cityscapes_G")
    difference = case.check_published(shared_dir / "golden" / "keys_oasis.json", "G_cityscapes(semantic 35, z64)")
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("num_labels", "count"), [(35, 71_107_523), (38, 71_190_467), (151, 74_314_691), (183, 75_199_427)]
)
def test_parameter_counts_are_the_published_ones(num_labels, count):
    with torch.device("meta"):
        network = OASISGenerator(in_channels=num_labels, out_channels=3)
    assert sum(p.numel() for p in network.parameters()) == count


def test_one_vector_is_the_same_noise_everywhere():
    network = make()
    condition, noise = torch.randn(2, 2, 32, 64), torch.randn(2, 3)
    everywhere = noise[:, :, None, None].expand(-1, -1, 32, 64)
    assert torch.equal(network(condition, noise), network(condition, everywhere))


def test_other_noise_changes_the_image_only_around_it():
    network = make()
    condition, noise = torch.randn(1, 2, 32, 512), torch.randn(1, 3, 32, 512)
    other = noise.clone()
    other[..., :64] = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        change = (network(condition, noise) - network(condition, other)).abs().amax((0, 1, 2))
    assert change[:64].min() > 1e-4
    # Four cells of 32 pixels in the first block, two cells in each of the others, one pixel in the head.
    reach = 4 * 32 + 2 * (16 + 8 + 4 + 2 + 1) + 1
    assert change[64 + reach :].max() <= 1e-6


def test_noise_without_a_value_is_one_vector_per_image():
    network = make()
    condition = torch.randn(1, 2, 32, 32).expand(2, -1, -1, -1)
    torch.manual_seed(3)
    drawn = network(condition)
    torch.manual_seed(3)
    assert torch.equal(drawn, network(condition, torch.randn(2, 3)))
    assert not torch.allclose(drawn[0], drawn[1])


def test_edges_go_beside_the_features_but_not_into_spade():
    network = make(in_channels=3, edge_channels=1)
    assert network.stem.in_channels == 3 + 3
    for block in network.blocks:
        assert block.norm_0.shared.in_channels == 3 + 2
        assert block.norm_0.gamma.out_channels == block.conv_0.in_channels
    condition, noise = torch.randn(1, 3, 32, 32), torch.zeros(1, 3)
    other = condition.clone()
    other[:, -1] = 0
    with torch.no_grad():
        assert not torch.allclose(network(condition, noise), network(other, noise), atol=1e-3)


def test_state_dict_keys_are_readable():
    keys = make(use_spectral_norm=False).state_dict()
    assert {"stem.weight", "blocks.0.norm_0.norm.running_mean", "blocks.2.conv_s.weight", "head.bias"} <= keys.keys()
    assert not any(key.startswith(("blocks.0.conv_s", "blocks.1.norm_s")) for key in keys)


def test_labels_are_resized_once_per_resolution(monkeypatch):
    """Sixteen normalisations at six sizes, and the stem: fewer copies to keep for the backward pass."""
    sizes = []
    resize = functional.interpolate

    def spy(x, size=None, *args, **options):
        sizes.append(size)
        return resize(x, size, *args, **options)

    monkeypatch.setattr(functional, "interpolate", spy)
    make(in_channels=3, edge_channels=1)(torch.randn(1, 3, 64, 64))
    assert [size for size in sizes if size] == [[n, n] for n in (2, 2, 4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("condition", "noise", "error", "message"),
    [
        ((1, 2, 32, 48), None, GeometryError, r"\[32, 48\].*multiple of 32"),
        ((1, 4, 32, 32), None, ConfigError, r"condition has 4 channels.*takes 2.*One-hot"),
        ((1, 2, 32, 32), (1, 4), ConfigError, r"noise has 4 channels and the condition 2.*takes 3 \+ 2"),
        ((1, 2, 32, 32), (1, 3, 16, 16), GeometryError, r"noise has size \[16, 16\].*condition \[32, 32\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(condition, noise, error, message):
    with pytest.raises(error, match=message):
        make()(torch.zeros(condition), None if noise is None else torch.zeros(noise))


@pytest.mark.parametrize(
    "options",
    [
        {"spatial_dims": 1},
        {"norm": "layer"},
        {"noise_channels": -1},
        {"edge_channels": 2},
        {"edge_channels": -1},
        {"kernel_size": 4},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        make(**options)

import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import MultiScaleDiscriminator, build

GOLDEN = [
    ("p2phd_D2_feat_instance", {}),
    ("p2phd_D3_feat_instance", {}),
    ("p2phd_D2_nofeat_sigmoid_batch", {"use_sigmoid": True}),
    ("spade_D2_spectralinstance", {}),
    ("spade_D2_spectralbatch_nofeat", {}),
]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("name", "hints"), GOLDEN)
def test_equals_the_official_network(golden_case, name, hints, mode):
    case = golden_case(name)
    differences = case.check(mode, **hints)
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_p2phd_D2")
    difference = case.check_published(shared_dir / "golden" / "keys_pix2pixHD.json", "D_num2_feat(39)")
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("pix2pixhd_multiscale", {"in_channels": 39}, 5_603_202),
        ("pix2pixhd_multiscale", {"in_channels": 39, "num_scales": 3}, 8_404_803),
        # pix2pixhd-medical: skin lesions and gliomas
        ("pix2pixhd_multiscale", {"in_channels": 11, "num_scales": 3, "channels": 96}, 13_939_683),
        ("pix2pixhd_multiscale", {"in_channels": 6, "num_scales": 3, "channels": 128}, 20_512_899),
        ("spade_multiscale", {"in_channels": 39}, 5_601_410),
        ("spade_multiscale", {"in_channels": 154}, 5_836_930),
        ("spade_multiscale", {"in_channels": 187}, 5_904_514),
    ],
)
def test_parameter_counts_are_the_published_ones(name, options, count):
    with torch.device("meta"):
        network = build(name, **options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_published_maps_of_a_256_image_have_35_and_19_values():
    network = MultiScaleDiscriminator(in_channels=1, channels=1)
    assert [layers[-1].shape[2:] for layers in network(torch.zeros(1, 1, 256, 256))] == [(35, 35), (19, 19)]


def test_returns_all_features_of_every_scale_with_full_resolution_first():
    out = MultiScaleDiscriminator(in_channels=2, channels=4, num_scales=3)(torch.randn(2, 2, 32, 32))
    assert [[t.shape[1] for t in layers] for layers in out] == [[4, 8, 16, 32, 1]] * 3
    assert [layers[0].shape[-1] for layers in out] == [17, 9, 5]


def test_every_scale_judges_the_image_at_half_the_size_of_the_one_before():
    network = MultiScaleDiscriminator(in_channels=1, channels=4, num_scales=3).eval()
    x = torch.randn(1, 1, 33, 40)
    half = torch.nn.functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    quarter = torch.nn.functional.avg_pool2d(half, 3, stride=2, padding=1, count_include_pad=False)
    for layers, scale, image in zip(network(x), network.scales, (x, half, quarter), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layers, scale(image)[0], strict=True))
    assert torch.equal(network.pool(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 3, 3))  # padding does not darken


def test_biases_are_as_published():
    def has_bias(**options):
        network = MultiScaleDiscriminator(in_channels=1, channels=2, num_scales=1, **options)
        return [layer.conv.bias is not None for layer in network.scales[0].layers]

    assert has_bias() == has_bias(norm="batch") == [True] * 4
    assert has_bias(use_spectral_norm=True, conv_bias=False) == [True] + [False] * 3


def test_the_width_stops_at_max_channels():
    network = MultiScaleDiscriminator(in_channels=1, channels=4, max_channels=10)
    assert [layer.conv.out_channels for layer in network.scales[1].layers] == [4, 8, 10, 10]


@pytest.mark.parametrize("num_scales", [1, 2, 3])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_smallest_size_is_the_smallest_that_works(num_scales, spatial_dims):
    network = MultiScaleDiscriminator(
        spatial_dims=spatial_dims, in_channels=1, channels=2, num_layers=2, num_scales=num_scales
    )
    sizes = [network.min_size] * spatial_dims
    assert all(layers[-1].isfinite().all() for layers in network(torch.randn(1, 1, *sizes)))  # in train mode
    with pytest.raises(GeometryError, match=rf"num_scales={num_scales} needs at least {network.min_size}.*num_scales"):
        network(torch.zeros(1, 1, *sizes[1:], network.min_size - 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_scales": 0}, "num_scales=0"),
        ({"num_layers": 0}, r"num_layers=0.*PatchDiscriminator"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"spatial_dims": 1}, "spatial_dims=1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MultiScaleDiscriminator(in_channels=1, **options)

import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import ResNetGenerator, build
from monai_synth.networks.antialias import BlurDown, BlurUp
from tests.networks.tiny_networks import TINY

GOLDEN = [
    ("p2p_resnet6_instance", "eval"),
    ("p2p_resnet6_instance", "train"),
    ("p2p_resnet2_batch_zero", "eval"),
    ("p2p_resnet2_batch_zero", "train"),
    ("p2p_resnet9_batch_dropout", "eval"),
    ("p2phd_global_d2_b2_batch", "eval"),
    ("p2phd_global_d2_b2_batch", "train"),
    ("p2phd_global_d2_b2_instance", "eval"),
    ("p2phd_global_d2_b2_instance", "train"),
    ("p2phd_global_d4_b1_instance", "eval"),
    ("p2phd_global_d4_b1_instance", "train"),
]
CUT = [
    ("cut_G_resnet9_antialias", "eval"),
    ("cut_G_resnet4_noantialias_batch", "eval"),
    ("cut_G_resnet4_noantialias_batch", "train"),
]


@pytest.mark.parametrize(("name", "mode"), GOLDEN)
def test_equals_the_official_network(golden_case, name, mode):
    case = golden_case(name)
    differences = case.check(mode)
    arguments = case.imported.network_def
    assert arguments["num_downs"] == case.config.get("n_downsampling", 2)
    assert arguments["num_blocks"] == case.config["n_blocks"]
    assert arguments["padding"] == case.config.get("padding_type", "reflect")
    assert arguments["dropout"] == (0.5 if case.config.get("use_dropout") else 0.0)
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.parametrize(("name", "mode"), CUT)
def test_features_equal_those_of_cut(golden_case, name, mode):
    case = golden_case(name)
    # Two passes, as in CUT: running statistics move twice as far as the features go.
    case.forward = lambda network, inputs: [
        network(inputs["x"]),
        *network.encode(inputs["x"], case.config["nce_layers"]),
    ]
    differences = case.check(mode, lambda mode, out: {f"out/{mode}/{i}": tensor for i, tensor in enumerate(out)})
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_antialiasing_is_recognised(golden_case):
    case = golden_case("cut_G_resnet9_antialias")
    network = case.network()
    assert case.imported.network_def["antialias_down"]
    assert case.imported.network_def["antialias_up"]
    assert [i for i, layer in enumerate(network.layers) if isinstance(layer, (BlurDown, BlurUp))] == [7, 11, 21, 25]


def test_equals_cyclegan_at_published_width(shared_dir, golden_case):
    case = golden_case("full_p2p_resnet9_instance")
    difference = case.check_published(
        shared_dir / "golden" / "keys_pix2pix.json",
        "resnet_9blocks_instance_nodropout(CycleGAN)",
        lambda key: key in ("model.19.weight", "model.22.weight"),
    )
    assert difference <= case.tolerance("eval")


def test_equals_pix2pixhd_at_published_width(shared_dir, golden_case):
    case = golden_case("full_p2phd_global")
    difference = case.check_published(
        shared_dir / "golden" / "keys_pix2pixHD.json",
        "G_global_label2city_512p(36->3)",
        lambda key: key in [f"model.{i}.weight" for i in (25, 28, 31, 34)],
    )
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("resnet", {"in_channels": 3, "out_channels": 3}, 11_378_179),
        ("resnet", {"in_channels": 3, "out_channels": 3, "num_blocks": 6}, 7_837_699),
        ("resnet", {"in_channels": 3, "out_channels": 3, "norm": "batch"}, 11_383_427),
        ("cut_resnet", {"in_channels": 3, "out_channels": 3}, 11_378_179),
        ("pix2pixhd_global", {"in_channels": 36, "out_channels": 3}, 182_546_755),
        ("pix2pixhd_global", {"in_channels": 39, "out_channels": 3}, 182_556_163),
        ("pix2pixhd_global", {"in_channels": 8, "out_channels": 3, "channels": 96, "num_downs": 3}, 102_586_467),
    ],
)
def test_parameter_counts_are_the_published_ones(name, arguments, count):
    with torch.device("meta"):
        network = build(name, **arguments)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet", "cut_resnet", "pix2pixhd_global", "pix2pixhd_local"])
def test_output_has_the_size_of_the_condition_from_min_size_on(name, spatial_dims):
    network = build(name, **TINY[name], in_channels=2, out_channels=3, spatial_dims=spatial_dims).eval()
    assert network.min_size == 2 * network.stride
    for multiple in (2, 3):
        sizes = [network.stride * (multiple + i % 2) for i in range(spatial_dims)]
        out = network(torch.randn(2, 2, *sizes))
        assert out.shape == (2, 3, *sizes)
        assert out.abs().max() <= 1


@pytest.mark.parametrize("padding", ["replicate", "zero"])
def test_other_paddings_take_one_stride(padding):
    network = ResNetGenerator(channels=2, num_blocks=1, padding=padding, norm="batch").eval()
    assert network.min_size == network.stride == 4
    assert network(torch.zeros(1, 1, 4, 4)).shape == (1, 1, 4, 4)
    for norm in ("instance", "group"):
        network = ResNetGenerator(channels=2, num_blocks=1, padding=padding, norm=norm).eval()
        assert network(torch.zeros(1, 1, 4, 8)).shape == (1, 1, 4, 8)
        with pytest.raises(GeometryError, match=r"\[4, 4\].*single value.*norm='batch'"):
            network(torch.zeros(1, 1, 4, 4))
    assert ResNetGenerator(channels=2, num_downs=1, padding=padding).min_size == 4  # stem and head reflect 3 values


def test_state_dict_keys_count_as_the_published_files_do():
    keys = ResNetGenerator(channels=2, num_blocks=1, antialias_down=True, antialias_up=True).state_dict().keys()
    convs = {"layers.1", "layers.4", "layers.8", "layers.12.conv_0", "layers.12.conv_1", "layers.14", "layers.18"}
    assert {key.rpartition(".")[0] for key in keys} == {*convs, "layers.22"}


def test_encode_stops_after_the_last_layer_that_is_needed():
    network = ResNetGenerator(channels=2, num_blocks=2)
    reached = []
    for i, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda *_, i=i: reached.append(i))
    network.encode(torch.randn(1, 1, 16, 16), [3, 6])
    assert reached == list(range(7))
    assert network.encode(torch.randn(1, 1, 16, 16), []) == []


@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_features_are_those_after_their_layer_in_the_order_asked_for(norm, activation_checkpointing):
    torch.manual_seed(0)
    network = ResNetGenerator(
        channels=2, num_blocks=1, norm=norm, init_gain=0.2, activation_checkpointing=activation_checkpointing
    )
    x, layers = torch.randn(2, 1, 16, 24), [5, 2, 0, 4, 10, 12, 5]
    features = network.encode(x, layers)
    y, expected, grads = x, {}, []
    for i, layer in enumerate(network.layers):
        y = layer(y.clone())  # activations work in place
        expected[i] = y
    assert all(torch.equal(a, expected[i]) for a, i in zip(features, layers, strict=True))
    for found in (features, [expected[i] for i in layers]):
        network.zero_grad()
        sum((f**2).mean() for f in found).backward()
        grads.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_activation_checkpointing_keeps_less():
    class Counter:
        def __init__(self):
            self.num_values = 0

        def __call__(self, tensor):
            self.num_values += tensor.numel()
            return tensor

    kept = {}
    for value in (False, True):
        torch.manual_seed(0)
        network = ResNetGenerator(channels=4, num_blocks=3, activation_checkpointing=value)
        counter = Counter()
        with torch.autograd.graph.saved_tensors_hooks(counter, lambda tensor: tensor):
            network(torch.randn(1, 1, 32, 32))
        kept[value] = counter.num_values
    assert kept[True] < kept[False] / 4


def test_dropout_sits_inside_the_blocks_and_is_live_in_training_only():
    network = ResNetGenerator(channels=2, num_blocks=2, dropout=0.5)
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 2
    x = torch.randn(2, 1, 16, 16)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("option", [{"upsample": "resize"}, {"antialias_up": True}])
def test_the_other_ways_of_doubling_leave_no_checkerboard(option):
    spread = {}
    for name, options in {"published": {}, "other": option}.items():
        torch.manual_seed(0)
        network = ResNetGenerator(channels=8, num_blocks=1, norm="none", init_gain=0.2, **options).eval()
        out = network(torch.full((1, 1, 64, 64), 0.5))[..., 28:36, 28:36].detach()
        spread[name] = float(out.std() / out.abs().mean())
    assert spread["other"] < 1e-5 < 1e-2 < spread["published"]


def test_antialiasing_follows_a_shift_of_the_condition():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 24:40, 24:40] = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    gap = {}
    for is_antialiased in (False, True):
        torch.manual_seed(0)
        options = {"antialias_down": is_antialiased, "antialias_up": is_antialiased}
        network = ResNetGenerator(channels=8, num_blocks=1, norm="none", init_gain=0.1, **options).eval()
        shifted = network(x.roll(1, -1)).roll(-1, -1)
        difference = (network(x) - shifted).detach()[..., 20:44, 20:44]
        gap[is_antialiased] = float(difference.abs().mean() / shifted.detach().std())
    assert gap[True] < gap[False] / 2


def test_a_size_that_does_not_fit_names_size_rule_and_way_out():
    network = ResNetGenerator(channels=2, num_blocks=1)
    with pytest.raises(GeometryError, match=r"\[16, 18\].*multiple of 4.*VolumeInferer"):
        network(torch.zeros(1, 1, 16, 18))
    with pytest.raises(GeometryError, match=r"\[4, 16\].*at least 8.*padding='replicate'"):
        network(torch.zeros(1, 1, 4, 16))
    with pytest.raises(GeometryError, match=r"\[4, 16\].*at least 8"):
        network.encode(torch.zeros(1, 1, 4, 16), [0])
    with pytest.raises(torch.jit.Error, match=r"GeometryError: The condition has size \[4, 16\]"):
        torch.jit.script(network.eval())(torch.zeros(1, 1, 4, 16))


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"no layer 40.*0 to 19"):
        ResNetGenerator(channels=2, num_blocks=1).encode(torch.zeros(1, 1, 16, 16), [0, 40])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "norm='layer'"),
        ({"upsample": "bilinear"}, "upsample='bilinear'"),
        ({"padding": "circular"}, "padding='circular'.*reflect, replicate, zero"),
        ({"num_downs": 0}, "num_downs=0"),
        ({"num_blocks": -1}, "num_blocks=-1"),
        ({"spatial_dims": 1}, "spatial_dims=1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"antialias_up": True, "upsample": "resize"}, "two ways of doubling"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ResNetGenerator(channels=2, **options)

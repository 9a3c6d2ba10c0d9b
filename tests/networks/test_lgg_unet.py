import pytest
import torch
from torch.nn import functional

from monai_synth.checkpoints import import_checkpoint
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.inferers import VolumeInferer
from monai_synth.networks import LGGUNet
from monai_synth.networks.registry import build, count_parameters


def make_official_state(in_channels=3, out_channels=1, channels=32, num_downs=4, spatial_dims=2):
    """The published key table with random numbers."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    state = {}

    def add_block(name, width_in, width):
        for i, width_from in ((1, width_in), (2, width)):
            kernel = [3] * spatial_dims
            state[f"{name}conv{i}.weight"] = draw(width, width_from, *kernel, scale=(2 / (width_from * 9)) ** 0.5)
            state[f"{name}norm{i}.weight"] = 1 + draw(width, scale=0.1)
            state[f"{name}norm{i}.bias"] = draw(width, scale=0.1)
            state[f"{name}norm{i}.running_mean"] = draw(width, scale=0.1)
            state[f"{name}norm{i}.running_var"] = 0.5 + torch.rand(width, generator=generator)
            state[f"{name}norm{i}.num_batches_tracked"] = torch.tensor(7)

    widths = [channels * 2**i for i in range(num_downs + 1)]
    for level in range(1, num_downs + 1):
        add_block(f"encoder{level}.enc{level}", widths[level - 2] if level > 1 else in_channels, widths[level - 1])
    add_block("bottleneck.bottleneck", widths[-2], widths[-1])
    for level in range(num_downs, 0, -1):
        wide, narrow = widths[level], widths[level - 1]
        state[f"upconv{level}.weight"] = draw(wide, narrow, *[2] * spatial_dims, scale=wide**-0.5)
        state[f"upconv{level}.bias"] = draw(narrow, scale=0.1)
        add_block(f"decoder{level}.dec{level}", 2 * narrow, narrow)
    state["conv.weight"] = draw(out_channels, channels, *[1] * spatial_dims, scale=channels**-0.5)
    state["conv.bias"] = draw(out_channels)
    return state


def compute(state, x, *, training=False, num_downs=4):
    """The network as a plain function of the key table, written apart from ours: the logits."""

    def block(name, x):
        for i in (1, 2):
            x = functional.conv2d(x, state[f"{name}conv{i}.weight"], padding=1)
            norm = f"{name}norm{i}"
            if training:
                mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            else:
                mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            x = (x * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None]).clamp(min=0)
        return x

    encoded = []
    for level in range(1, num_downs + 1):
        encoded.append(block(f"encoder{level}.enc{level}", x))
        x = functional.max_pool2d(encoded[-1], kernel_size=2, stride=2)
    x = block("bottleneck.bottleneck", x)
    for level in range(num_downs, 0, -1):
        # A transposed convolution whose kernel is its stride: every value becomes a 2 x 2 square.
        weight = state[f"upconv{level}.weight"]
        squares = torch.einsum("bchw,cdij->bdhiwj", x, weight)
        batch, width, height, _, length, _ = squares.shape
        x = squares.reshape(batch, width, 2 * height, 2 * length) + state[f"upconv{level}.bias"][:, None, None]
        x = block(f"decoder{level}.dec{level}", torch.cat((x, encoded[level - 1]), dim=1))
    return functional.conv2d(x, state["conv.weight"], state["conv.bias"])


@pytest.fixture(scope="module")
def official_state():
    return make_official_state()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use_sigmoid", [True, False])
def test_equals_the_function_that_the_key_table_describes(official_state, tmp_path, use_sigmoid, training):
    torch.save(official_state, tmp_path / "unet.pt")
    found = import_checkpoint(tmp_path / "unet.pt", **({} if use_sigmoid else {"use_sigmoid": False}))
    x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = found.network.train(training)(x)
        logits = compute(official_state, x, training=training)
    assert float(logits.std()) > 0.1
    torch.testing.assert_close(out, logits.sigmoid() if use_sigmoid else logits, atol=1e-4, rtol=0)


def test_parameter_count_is_the_published_one(official_state):
    assert count_parameters("lgg_unet") == 7_763_041
    norms = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(value.numel() for key, value in official_state.items() if not key.endswith(norms)) == 7_763_041


VARIANTS = [
    {},
    {"norm": "instance", "channels_last": True},
    {"norm": "none", "use_sigmoid": False, "init_type": "kaiming"},
    {"spatial_dims": 3, "norm": "group", "out_channels": 4},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_map_per_structure_has_the_size_of_the_image(options):
    network = LGGUNet(in_channels=2, channels=4, num_downs=2, **options)
    x = torch.randn(2, 2, *(8, 12, 4)[: options.get("spatial_dims", 2)])
    out = network(x)
    assert out.shape == (2, options.get("out_channels", 1), *x.shape[2:])
    assert (out.min() >= 0 and out.max() <= 1) == options.get("use_sigmoid", True)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad.any() for p in network.parameters() if p.ndim > 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", VARIANTS)
def test_torchscript_and_trace_give_the_same_at_any_size(options):
    network = LGGUNet(in_channels=2, channels=4, num_downs=2, **options).eval()
    dims = options.get("spatial_dims", 2)
    small, large = (torch.randn(2, 2, *size[:dims]) for size in ((8, 12, 4), (16, 4, 8)))
    with torch.no_grad():
        for compiled in (torch.jit.script(network), torch.jit.trace(network, small)):
            for x in (small, large):
                torch.testing.assert_close(compiled(x), network(x), atol=1e-5, rtol=0)


def test_start_values_are_those_of_torch_unless_asked_for():
    torch.manual_seed(0)
    network = LGGUNet(channels=4)
    conv = network.downs[0].conv2
    assert float(conv.weight.detach().abs().max()) <= (1 / (4 * 9)) ** 0.5 < 2.5 * float(conv.weight.detach().std())
    assert network.downs[0].norm1.weight.eq(1).all()
    assert float(LGGUNet(channels=4, init_type="normal").downs[0].conv2.weight.detach().std()) == pytest.approx(
        0.02, rel=0.3
    )


def test_volumes_of_odd_size_go_through_the_inferer():
    network = LGGUNet(in_channels=1, channels=2).eval()
    with torch.no_grad():
        assert VolumeInferer(axis=2, batch_size=2)(torch.randn(1, 1, 19, 33, 3), network).shape == (1, 1, 19, 33, 3)


def test_a_size_that_is_no_multiple_names_size_stride_and_way_out():
    network = LGGUNet(channels=2)
    assert network.stride == 16
    with pytest.raises(GeometryError, match=r"\[16, 40\].*multiple of 16.*VolumeInferer"):
        network(torch.zeros(1, 3, 16, 40))
    with pytest.raises(torch.jit.Error, match=r"GeometryError: The input has size \[16, 40\]"):
        torch.jit.script(network)(torch.zeros(1, 3, 16, 40))


@pytest.mark.parametrize(
    "options", [{"num_downs": 0}, {"norm": "layer"}, {"spatial_dims": 1}, {"init_type": "constant"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        build("lgg_unet", channels=2, **options)

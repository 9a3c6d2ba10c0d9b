import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import SPADEGenerator
from monai_synth.networks.spade_block import SpadeNorm, SpadeResBlock, resize_nearest

# name, hints that the file does not tell
GOLDEN = [
    ("spade_G_syncbatch_normal", {}),
    ("spade_G_syncbatch_nh128", {}),
    ("spade_G_instance_more", {"upsampling": "more"}),
    ("spade_G_batch_vae", {}),
]


def tiny(**options):
    torch.manual_seed(0)
    return SPADEGenerator(**{"in_channels": 2, "channels": 1, "hidden_channels": 4, **options})


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("name", "hints"), GOLDEN)
def test_equals_the_official_network(golden_case, name, hints, mode):
    case = golden_case(name)
    differences = case.check(mode, **hints)
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_spade_G_ade20k")
    difference = case.check_published(shared_dir / "golden" / "keys_spade.json", "G_ade20k(150+1,no_instance,256)")
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"in_channels": 36}, 93_048_003),
        ({"in_channels": 36, "upsampling": "more"}, 93_048_003),
        ({"in_channels": 36, "upsampling": "most"}, 93_570_659),
        ({"in_channels": 151}, 96_492_483),
        ({"in_channels": 184}, 97_480_899),
        ({"in_channels": 36, "noise_channels": 256}, 109_557_955),
    ],
)
def test_parameter_counts_are_the_published_ones(options, count):
    with torch.device("meta"):
        network = SPADEGenerator(out_channels=3, **options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_state_dict_keys_are_readable():
    keys = tiny().state_dict().keys()
    assert {"stem.weight", "head.bias", "blocks.6.conv_1.parametrizations.weight.original"} <= keys
    assert {"blocks.0.norm_0.norm.running_mean", "blocks.3.norm_s.gamma.weight", "blocks.3.norm_s.shared.bias"} <= keys
    # The shortcut of the wide blocks is plain; scale, shift, stem and head are not normalised spectrally.
    assert not any(".conv_s" in key or ".norm_s" in key for key in keys if key.startswith(("blocks.0", "blocks.2")))
    assert {key.split(".parametrizations")[0] for key in keys if "parametrizations" in key} == {
        f"blocks.{i}.conv_{n}" for i in range(7) for n in ("01s" if i > 2 else "01")
    }


@pytest.mark.parametrize(("upsampling", "stride", "num_blocks"), [("normal", 32, 7), ("more", 64, 7), ("most", 128, 8)])
def test_upsampling_sets_the_number_of_doublings(upsampling, stride, num_blocks):
    network = tiny(channels=2, upsampling=upsampling).eval()
    assert network.stride == stride
    assert len(network.blocks) == num_blocks
    sizes = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    network(torch.randn(1, 2, stride, 2 * stride))
    assert [channels for channels, _, _ in sizes] == [32, 32, 32, 16, 8, 4, 2, 1][:num_blocks]
    assert [length for _, length, _ in sizes[-4:]] == [stride // 8, stride // 4, stride // 2, stride]
    # "normal" keeps the size between the two middle blocks, the others double there.
    assert (sizes[2][1] // sizes[1][1]) == (1 if upsampling == "normal" else 2)


def test_a_single_pixel_of_the_condition_reaches_the_image():
    # The smaller grids take every second pixel: one at odd places is carried by the last block alone.
    network = tiny(init_gain=1.0).eval()
    condition = torch.zeros(1, 2, 64, 64)
    condition[:, 0] = 1
    changed = condition.clone()
    changed[0, :, 41, 41] = torch.tensor([0.0, 1.0])
    is_changed = (network(condition) != network(changed))[0, 0]
    rows, columns = is_changed.any(1).nonzero(), is_changed.any(0).nonzero()
    assert is_changed[41, 41]
    # Five 3x3 convolutions: shared and scale, the two of the block, the head.
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (36, 46, 36, 46)


def test_the_same_vector_gives_the_same_image_and_another_one_another():
    network = tiny(noise_channels=3, latent_size=(2, 2), init_gain=1.0).eval()
    condition, noise = torch.randn(2, 2, 64, 64), torch.randn(2, 3)
    assert torch.equal(network(condition, noise), network(condition, noise))
    assert not torch.equal(network(condition, noise), network(condition, -noise))
    torch.manual_seed(3)
    drawn = torch.randn(2, 3)
    torch.manual_seed(3)
    assert torch.equal(network(condition), network(condition, drawn))


def test_the_grid_of_the_vae_follows_the_size_of_the_condition():
    network = tiny(noise_channels=3, latent_size=(2, 2)).eval()
    starts = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: starts.append(inputs[0]))
    noise = torch.randn(1, 3)
    for size in ((64, 64), (128, 192), (32, 64)):
        network(torch.randn(1, 2, *size), noise)
    assert torch.equal(starts[0].flatten(), network.stem(noise).flatten())
    assert torch.equal(starts[1], starts[0].repeat_interleave(2, dim=2).repeat_interleave(3, dim=3))
    assert torch.equal(starts[2], starts[0][:, :, :1])


@pytest.mark.parametrize(("upsampling", "length"), [("normal", 8), ("more", 4), ("most", 2)])
def test_the_grid_of_the_vae_is_by_default_that_of_256_pixels(upsampling, length):
    assert tiny(channels=2, noise_channels=2, upsampling=upsampling).latent_size == [length, length]


def test_the_vae_takes_volumes():
    network = tiny(spatial_dims=3, noise_channels=2, latent_size=[1, 2, 1], hidden_channels=2).eval()
    assert network(torch.randn(1, 2, 32, 32, 64), torch.randn(1, 2)).shape == (1, 1, 32, 32, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upsampling": "extra"}, "upsampling='extra' .*normal, more, most"),
        ({"upsampling": "most"}, "channels=1 cannot be halved"),
        ({"kernel_size": 4}, "kernel_size=4 has no middle"),
        ({"norm": "layer"}, "norm='layer'"),
        ({"spatial_dims": 1}, "spatial_dims=1"),
        ({"latent_size": (8, 8)}, r"latent_size=\[8, 8\] is of the VAE only"),
        ({"latent_size": (8, 8, 8), "noise_channels": 4}, "no grid with spatial_dims=2"),
        ({"latent_size": (8, 0), "noise_channels": 4}, "one positive number per axis"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


def test_inputs_that_do_not_fit_name_the_way_out():
    plain, vae = tiny().eval(), tiny(noise_channels=3).eval()
    with pytest.raises(GeometryError, match=r"\[32, 40\].*multiple of 32"):
        plain(torch.zeros(1, 2, 32, 40))
    for network in (plain, vae):
        with pytest.raises(ConfigError, match=r"has 1 channels, but .* takes 2\. Build it.*one-hot labels"):
            network(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ConfigError, match="takes no noise"):
        plain(torch.zeros(1, 2, 64, 64), torch.zeros(1, 3))
    for noise in (torch.zeros(1, 4), torch.zeros(2, 3), torch.zeros(1, 3, 64, 64)):
        with pytest.raises(ConfigError, match=r"one vector per image: \[1, 3\]"):
            vae(torch.zeros(1, 2, 64, 64), noise)
    with pytest.raises(torch.jit.Error, match=r"ConfigError: The input has 1 channels"):
        torch.jit.script(tiny(use_spectral_norm=False).eval())(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("options", [{}, {"noise_channels": 3}])
def test_a_grid_of_one_value_is_refused_where_the_norm_needs_more(options):
    condition = torch.zeros(1, 2, 32, 32)
    with pytest.raises(GeometryError, match="a single value per channel, which instance norm"):
        tiny(norm="instance", **options).eval()(condition)
    with pytest.raises(GeometryError, match="which batch norm cannot normalise.*a larger batch"):
        tiny(**options)(condition)
    tiny(**options).eval()(condition)
    tiny(**options)(condition.expand(2, -1, -1, -1))
    tiny(norm="none", **options)(condition)
    tiny(norm="group", channels=4, **options)(condition)


# --- SpadeNorm and SpadeResBlock -------------------------------------------------------------------------------------


def test_nearest_keeps_a_tensor_of_the_right_size():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize_nearest(x, [4, 4]) is x
    assert torch.equal(resize_nearest(x, [2, 2]), x[..., ::2, ::2])
    assert torch.equal(resize_nearest(x, [8, 4]), x.repeat_interleave(2, dim=2))


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_features_are_normalised_then_scaled_and_shifted_by_the_condition(norm):
    torch.manual_seed(0)
    layer = SpadeNorm(spatial_dims=2, channels=4, condition_channels=3, hidden_channels=5, kernel_size=5, norm=norm)
    x, condition = torch.randn(2, 4, 6, 8) * 3 + 1, torch.randn(2, 3, 12, 16)
    axes = (0, 2, 3) if norm == "batch" else (2, 3)  # 4 channels make 4 groups
    normalised = x
    if norm != "none":
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        normalised = (x - mean) / (variance + 1e-5).sqrt()
    hidden = layer.shared(condition[..., ::2, ::2]).relu()
    expected = normalised * (1 + layer.gamma(hidden)) + layer.beta(hidden)
    assert torch.allclose(layer(x, condition), expected, atol=1e-5)
    assert not list(layer.norm.parameters())


def test_the_level_of_a_label_survives():
    # MONAI's block normalises scale and shift once more, and with them the level of the label away.
    from monai.networks.blocks import SPADE

    torch.manual_seed(0)
    ours = SpadeNorm(spatial_dims=2, channels=4, condition_channels=2, hidden_channels=8, norm="instance")
    theirs = SPADE(label_nc=2, norm_nc=4, hidden_channels=8, norm="INSTANCE")
    flat = torch.full((2, 4, 16, 16), 7.0)
    labels = torch.eye(2).reshape(2, 2, 1, 1).expand(-1, -1, 16, 16)  # one image per label
    levels = ours(flat, labels).mean((2, 3))
    assert torch.allclose(levels, ours.beta(ours.shared(labels).relu()).mean((2, 3)), atol=1e-4)
    assert (levels[0] - levels[1]).abs().max() > 0.1
    assert theirs(flat, labels).mean((2, 3)).abs().max() < 1e-4


def test_the_shortcut_is_learned_where_the_width_changes():
    same = SpadeResBlock(spatial_dims=2, in_channels=4, out_channels=4, condition_channels=2, hidden_channels=3).eval()
    wider = SpadeResBlock(spatial_dims=2, in_channels=4, out_channels=6, condition_channels=2, hidden_channels=3).eval()
    assert same.conv_s is None
    assert wider.conv_0.out_channels == 4  # the narrower of the two
    x, condition = torch.randn(2, 4, 8, 8), torch.randn(2, 2, 8, 8)
    for block in (same, wider):
        block.conv_1 = nn.Conv2d(4, block.conv_1.out_channels, 1)
        nn.init.zeros_(block.conv_1.weight)  # mute the main path
        nn.init.zeros_(block.conv_1.bias)
    assert torch.equal(same(x, condition), x)
    assert torch.equal(wider(x, condition), wider.conv_s(wider.norm_s(x, condition)))
    assert wider.conv_s.bias is None


def test_edges_are_put_beside_the_features_before_every_norm():
    torch.manual_seed(0)
    block = SpadeResBlock(
        spatial_dims=3, in_channels=4, out_channels=2, condition_channels=2, edge_channels=1, hidden_channels=3
    ).eval()
    assert [block.norm_0.gamma.out_channels, block.norm_1.gamma.out_channels, block.norm_s.gamma.out_channels] == [
        5,
        3,
        5,
    ]
    x, condition = torch.randn(1, 4, 4, 4, 4), torch.randn(1, 2, 8, 8, 8)
    edges = torch.zeros(1, 1, 8, 8, 8)
    plain = block(x, condition, edges)
    edges[..., ::2, ::2, ::2] = 1
    assert plain.shape == (1, 2, 4, 4, 4)
    assert not torch.allclose(plain, block(x, condition, edges), atol=1e-3)

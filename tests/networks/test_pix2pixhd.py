import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import FeatureEncoder, LocalEnhancer, ResNetGenerator
from monai_synth.networks.pix2pixhd import average_over_instances


def average_by_loop(features, instances):
    """The definition, one instance of one image after the other."""
    out = torch.empty_like(features)
    for b in range(features.shape[0]):
        for number in instances[b, 0].unique():
            mask = instances[b, 0] == number
            out[b, :, mask] = features[b][:, mask].mean(1, keepdim=True)
    return out


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_equals_the_official_local_enhancer(golden_case, mode):
    case = golden_case("p2phd_local1_instance")
    differences = case.check(mode)
    assert case.imported.network_def["num_local_blocks"] == case.config["n_blocks_local"]
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_equals_the_official_encoder(golden_case, mode):
    case = golden_case("p2phd_encoder")
    network = case.network().train(mode == "train")
    out = network(case.tensor("in/x"), case.tensor("in/inst"))
    assert float((out - case.tensor(f"out/{mode}")).abs().max()) <= case.tolerance(mode)


@pytest.mark.parametrize(
    ("network_class", "arguments", "count"),
    [
        (LocalEnhancer, {"in_channels": 36, "out_channels": 3}, 182_857_059),
        (LocalEnhancer, {"in_channels": 39, "out_channels": 3}, 182_871_171),
        (FeatureEncoder, {"in_channels": 3, "out_channels": 3}, 788_803),
        (FeatureEncoder, {"in_channels": 3, "out_channels": 32, "channels": 32}, 3_189_824),
    ],
)
def test_parameter_counts_are_the_published_ones(network_class, arguments, count):
    with torch.device("meta"):
        network = network_class(**arguments)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("num_enhancers", [1, 2])
def test_the_trunk_is_a_global_generator_without_its_head(num_enhancers):
    options = {"in_channels": 2, "num_downs": 2, "num_blocks": 1}
    network = LocalEnhancer(channels=2, num_enhancers=num_enhancers, **options)
    generator = ResNetGenerator(channels=2 * 2**num_enhancers, conv_bias=True, **options)
    network.trunk.layers.load_state_dict(generator.layers[:-3].state_dict())
    x = torch.randn(1, 2, 16, 16)
    assert torch.equal(network.trunk(x), torch.nn.Sequential(*generator.layers[:-3])(x))


def test_each_enhancer_sees_the_condition_at_its_own_size():
    network = LocalEnhancer(channels=2, num_downs=1, num_blocks=0, num_enhancers=2, num_local_blocks=0)
    assert network.stride == 8
    seen = {}
    for name, part in {"trunk": network.trunk, 0: network.enhancers[0], 1: network.enhancers[1]}.items():
        part.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    x = torch.ones(1, 1, 16, 24)
    network(x)
    assert [seen[key].shape[2:] for key in ("trunk", 0, 1)] == [(4, 6), (8, 12), (16, 24)]
    assert torch.equal(seen["trunk"], torch.ones(1, 1, 4, 6))  # what is padded does not count in the average


def test_a_condition_that_is_too_small_is_refused():
    network = LocalEnhancer(channels=2, num_downs=2, num_blocks=1)
    with pytest.raises(GeometryError, match=r"\[8, 16\].*at least 16"):
        network(torch.zeros(1, 1, 8, 16))
    with pytest.raises(GeometryError, match="multiple of 8"):
        network(torch.zeros(1, 1, 20, 16))
    with pytest.raises(GeometryError, match="at least 4"):
        FeatureEncoder(channels=2, num_downs=1)(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8))


@pytest.mark.parametrize("options", [{"num_downs": 0}, {"num_enhancers": 0}, {"num_local_blocks": -1}, {"norm": "x"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        LocalEnhancer(channels=2, **options)
    if options.keys() & {"num_downs", "norm"}:
        with pytest.raises(ConfigError):
            FeatureEncoder(channels=2, **options)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    "numbers",
    [
        torch.tensor([0, 1, 26_001], dtype=torch.int32),
        torch.tensor([-5, 2**40, 2**40 + 1]),
        torch.tensor([0, 200, 255], dtype=torch.uint8),
        torch.tensor([0, 40_000, 65_535], dtype=torch.uint16),
        torch.tensor([0.0, 1.0, 26_001.0]),
        torch.tensor([False, True]),
    ],
    ids=lambda numbers: str(numbers.dtype),
)
def test_instances_are_averaged_whatever_their_numbers_are(numbers, spatial_dims):
    generator = torch.Generator().manual_seed(0)
    size = (6, 8, 4)[:spatial_dims]
    index = torch.randint(len(numbers), (3, 1, *size), generator=generator)
    features = torch.randn(3, 2, *size, generator=generator)
    out = average_over_instances(features, numbers.to(torch.int64)[index].to(numbers.dtype))
    assert torch.allclose(out, average_by_loop(features, index), atol=1e-6)


def test_the_same_number_in_two_images_is_two_instances():
    torch.manual_seed(0)
    encoder = FeatureEncoder(channels=2, num_downs=1)
    image, instances = torch.randn(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.long)
    instances[1, :, 4:] = 7  # an instance that only the second image has
    out = encoder(image, instances)
    assert not torch.allclose(out[0], out[1])
    for i in range(2):
        assert torch.allclose(encoder(image[i : i + 1], instances[i : i + 1])[0], out[i], atol=1e-6)


def test_the_gradient_is_that_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 5, 7, generator=generator, requires_grad=True)
    instances = torch.randint(4, (2, 1, 5, 7), generator=generator)
    instances[0][instances[0] == 2] = 9
    weight = torch.randn(2, 3, 5, 7, generator=generator)
    grads = [
        torch.autograd.grad((average(features, instances) * weight).sum(), features)[0]
        for average in (average_over_instances, average_by_loop)
    ]
    assert torch.allclose(*grads, atol=1e-6)
    encoder = FeatureEncoder(channels=2, num_downs=1)
    encoder(torch.randn(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_half_precision_does_not_lose_count():
    features = torch.full((1, 1, 128, 128), 0.75, dtype=torch.bfloat16)
    out = average_over_instances(features, torch.zeros(1, 1, 128, 128))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, features)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 2, 8, 8), (1, 1, 8, 4), (1, 8, 8)])
def test_instances_of_another_shape_are_refused(shape):
    with pytest.raises(GeometryError, match="nearest value"):
        average_over_instances(torch.zeros(1, 3, 8, 8), torch.zeros(shape))


@pytest.mark.parametrize("compile_network", [torch.jit.script, None])
def test_a_compiled_encoder_gives_the_same_at_any_size(compile_network):
    encoder = FeatureEncoder(channels=2, num_downs=1, norm="batch").eval()
    example = (torch.randn(1, 1, 8, 12), torch.randint(3, (1, 1, 8, 12)))
    compiled = compile_network(encoder) if compile_network else torch.jit.trace(encoder, example)
    image, instances = torch.randn(2, 1, 16, 4), torch.randint(20, (2, 1, 16, 4))
    assert torch.allclose(compiled(image, instances), encoder(image, instances), atol=1e-6)


def test_an_encoder_of_volumes_is_built_from_the_same_options():
    encoder = FeatureEncoder(spatial_dims=3, channels=2, num_downs=1, channels_last=True)
    instances = torch.randint(3, (1, 1, 8, 4, 6))
    out = encoder(torch.randn(1, 1, 8, 4, 6), instances)
    assert out.shape == (1, 3, 8, 4, 6)
    assert len(out[0, 0].unique()) == 3

import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.networks import PatchSampler
from monai_synth.networks.registry import count_parameters

WIDTHS = [3, 6]


def make_features(spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(7, 6, 5), (3, 4, 2)]
    return [
        torch.randn(2, width, *size[:spatial_dims], generator=generator)
        for width, size in zip(WIDTHS, sizes, strict=True)
    ]


def read_case(case):
    features = [case.tensor(f"in/feat_{i}").requires_grad_() for i in range(3)]
    return features, [case.tensor(f"in/ids_{i}") for i in range(3)]


def test_equals_the_official_network(golden_case):
    case = golden_case("cut_patchsamplef")
    sampler = case.network()
    features, ids = read_case(case)
    vectors, same = sampler(features, ids=ids)
    sum((vector**3).sum() for vector in vectors).backward()
    for i in range(3):
        assert torch.equal(same[i], ids[i])
        expected, gradient = case.tensor(f"out/feat_{i}"), case.tensor(f"grad/feat_{i}")
        torch.testing.assert_close(vectors[i], expected, atol=1e-6, rtol=0)
        assert float((features[i].grad - gradient).abs().max() / gradient.abs().max()) <= 1e-4


def test_equals_the_official_network_without_projection(golden_case):
    case = golden_case("cut_patchsamplef")
    features, ids = read_case(case)
    vectors, _ = PatchSampler(in_channels=[3, 6, 8], use_mlp=False)(features, ids=ids)
    for i in range(3):
        torch.testing.assert_close(vectors[i], case.tensor(f"out/nomlp_{i}"), atol=1e-6, rtol=0)


def test_parameter_counts_are_the_published_ones():
    assert count_parameters("cut_patch_sampler") == 560_384
    assert not list(PatchSampler(in_channels=WIDTHS, use_mlp=False).parameters())


def test_parameters_exist_before_the_first_forward_and_all_get_a_gradient():
    sampler = PatchSampler(in_channels=WIDTHS, out_channels=5)
    before = list(sampler.state_dict())
    assert before[0] == "mlps.0.0.weight"
    vectors, _ = sampler(make_features(), 4)
    sum((vector**3).sum() for vector in vectors).backward()
    assert list(sampler.state_dict()) == before
    assert all(p.grad is not None and p.grad.any() for p in sampler.parameters())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_rows_are_the_images_places_in_order(spatial_dims):
    features = make_features(spatial_dims)
    vectors, ids = PatchSampler(in_channels=WIDTHS, use_mlp=False)(features, 5)
    for feature, vector, places in zip(features, vectors, ids, strict=True):
        for row, (image, place) in enumerate((b, int(p)) for b in range(2) for p in places):
            index = torch.unravel_index(torch.tensor(place), feature.shape[2:])  # last axis fastest
            expected = torch.nn.functional.normalize(feature[(image, slice(None), *index)], dim=0)
            torch.testing.assert_close(vector[row], expected, atol=1e-6, rtol=0)


def test_the_same_places_of_another_image():
    sampler = PatchSampler(in_channels=WIDTHS, out_channels=5)
    first, ids = sampler(make_features(), 4)
    second, again = sampler(make_features(seed=1), 4, ids)
    assert all(torch.equal(a, b) for a, b in zip(ids, again, strict=True))
    assert all(a.shape == b.shape == (8, 5) for a, b in zip(first, second, strict=True))
    same, _ = sampler(make_features(), 4, ids)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))


def test_places_are_drawn_without_repetition_and_anew_for_every_map():
    sampler = PatchSampler(in_channels=[1, 1], use_mlp=False)
    features = [torch.randn(1, 1, 20, 20)] * 2
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(sampler(features, 300)[1])
    assert all(len(set(place.tolist())) == 300 for place in draws[0])
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])
    assert not torch.equal(draws[0][0], draws[0][1])


def test_a_small_map_gives_all_its_places():
    vectors, ids = PatchSampler(in_channels=WIDTHS, use_mlp=False)(make_features(), 20)
    assert [vector.shape for vector in vectors] == [(40, 3), (24, 6)]
    assert sorted(ids[1].tolist()) == list(range(12))


def test_a_feature_of_zero_has_a_finite_gradient():
    feature = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (vector,), _ = PatchSampler(in_channels=[3], use_mlp=False)([feature])
    vector.sum().backward()
    assert feature.grad.isfinite().all()


def test_channels_last_features_give_the_same():
    sampler = PatchSampler(in_channels=WIDTHS, out_channels=5)
    features = make_features()
    vectors, ids = sampler(features, 4)
    others, _ = sampler([feature.to(memory_format=torch.channels_last) for feature in features], 4, ids)
    assert all(torch.equal(a, b) for a, b in zip(vectors, others, strict=True))


@pytest.mark.parametrize("use_mlp", [True, False])
def test_torchscript_gives_the_same(use_mlp):
    sampler = PatchSampler(in_channels=WIDTHS, out_channels=5, use_mlp=use_mlp)
    vectors, ids = sampler(make_features(), 4)
    scripted, _ = torch.jit.script(sampler)(make_features(), 4, ids)
    for a, b in zip(vectors, scripted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_what_does_not_fit_is_refused():
    sampler = PatchSampler(in_channels=WIDTHS)
    features = make_features()
    with pytest.raises(ConfigError, match=r"1 feature maps were given to a patch sampler for 2"):
        sampler(features[:1])
    with pytest.raises(ConfigError, match=r"Feature map 0 has 6 channels.*built for 3"):
        sampler(features[::-1])
    with pytest.raises(ConfigError, match=r"1 lists of places .* 2 feature maps"):
        sampler(features, ids=[torch.arange(3)])
    with pytest.raises(ConfigError, match=r"num_patches=0"):
        sampler(features, 0)
    with pytest.raises(ConfigError, match=r"in_channels=\[\]"):
        PatchSampler(in_channels=[])

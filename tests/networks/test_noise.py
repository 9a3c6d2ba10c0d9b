import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks.noise import join_noise

CHANNELS = {"in_channels": 3, "noise_channels": 4, "is_guessed": False}


@pytest.mark.parametrize("size", [(5, 6), (4, 3, 2)])
def test_one_vector_is_put_at_every_pixel_noise_first(size):
    condition, noise = torch.randn(2, 3, *size), torch.randn(2, 4)
    joined = join_noise(condition, noise, **CHANNELS)
    assert joined.shape == (2, 7, *size)
    assert torch.equal(joined[:, 4:], condition)
    for index in ((0,) * len(size), tuple(length - 1 for length in size)):
        assert torch.equal(joined[(slice(None), slice(4), *index)], noise)


def test_noise_may_differ_from_pixel_to_pixel():
    condition, noise = torch.randn(2, 3, 5, 6), torch.randn(2, 4, 5, 6)
    assert torch.equal(join_noise(condition, noise, **CHANNELS), torch.cat([noise, condition], dim=1))


def test_one_normal_vector_per_image_is_drawn_where_none_is_given():
    torch.manual_seed(0)
    condition = torch.randn(500, 1, 2, 2)
    torch.manual_seed(1)
    joined = join_noise(condition, None, in_channels=1, noise_channels=4, is_guessed=False)
    torch.manual_seed(1)
    assert torch.equal(
        joined, join_noise(condition, torch.randn(500, 4), in_channels=1, noise_channels=4, is_guessed=False)
    )
    noise = joined[:, :4]
    assert torch.equal(noise, noise[..., :1, :1].expand_as(noise))
    assert float(noise[..., 0, 0].mean()) == pytest.approx(0, abs=0.1)
    assert float(noise[..., 0, 0].std()) == pytest.approx(1, abs=0.1)


def test_without_noise_channels_the_condition_is_handed_over():
    condition = torch.randn(2, 3, 5, 6)
    assert join_noise(condition, None, in_channels=3, noise_channels=0, is_guessed=False) is condition


def test_only_the_sum_of_the_channels_counts():
    # A published file does not say where its noise ends.
    joined = join_noise(torch.randn(1, 5, 2, 2), torch.randn(1, 2), **{**CHANNELS, "is_guessed": True})
    assert joined.shape[1] == 7
    with pytest.raises(ConfigError, match="noise has 2 channels"):
        join_noise(torch.randn(1, 5, 2, 2), torch.randn(1, 2), **CHANNELS)


def test_noise_takes_the_precision_of_the_condition():
    condition = torch.randn(1, 3, 2, 2, dtype=torch.double)
    assert join_noise(condition, None, **CHANNELS).dtype == torch.double
    assert join_noise(condition, torch.randn(1, 4), **CHANNELS).dtype == torch.double


def test_channels_and_sizes_that_do_not_fit_are_refused():
    condition = torch.randn(2, 3, 5, 6)
    with pytest.raises(ConfigError, match=r"condition has 4 channels, but this generator takes 3 \(and 4 of noise\)"):
        join_noise(torch.randn(2, 4, 5, 6), None, **CHANNELS)
    with pytest.raises(ConfigError, match=r"noise has 5 channels and the condition 3.*4 \+ 3"):
        join_noise(condition, torch.randn(2, 5), **CHANNELS)
    with pytest.raises(GeometryError, match=r"noise has size \[5, 5\], but the condition \[5, 6\]"):
        join_noise(condition, torch.randn(2, 4, 5, 5), **CHANNELS)


def test_it_can_be_scripted():
    scripted = torch.jit.script(join_noise)
    condition, noise = torch.randn(2, 3, 5, 6), torch.randn(2, 4)
    assert torch.equal(scripted(condition, noise, **CHANNELS), join_noise(condition, noise, **CHANNELS))
    assert scripted(condition, None, **CHANNELS).shape == (2, 7, 5, 6)

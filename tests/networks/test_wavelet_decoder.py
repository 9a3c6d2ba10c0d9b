"""The decoder of USIS beside the discriminator that feeds it."""

import pytest
import torch

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import WaveletDecoder, WaveletDiscriminator


def make(image_size=(32, 64), **options):
    torch.manual_seed(0)
    discriminator = WaveletDiscriminator(
        spatial_dims=len(image_size), image_size=image_size, in_channels=1, channels=4, max_channels=8
    )
    return discriminator, WaveletDecoder.of(discriminator, channels=4, **options)


@pytest.mark.parametrize("image_size", [(16, 16), (32, 64), (128, 128), (16, 16, 16), (32, 16, 16)])
def test_takes_as_many_maps_as_the_discriminator_gives(image_size):
    discriminator, decoder = make(image_size)
    image = torch.rand(2, 1, *image_size) * 2 - 1
    (layers,) = discriminator(image)
    decoded = decoder(layers[:-1])
    assert len(decoder.ups) == len(layers) - 1
    assert decoded.shape == image.shape
    assert decoded.abs().max() <= 1


def test_has_the_published_number_of_parameters():
    """Six maps, as of images of 512: with five, as of 256, the published decoder fails."""
    with torch.device("meta"):
        discriminator = WaveletDiscriminator(image_size=(256, 512), channels=64)
        decoder = WaveletDecoder.of(discriminator)
    assert sum(p.numel() for p in decoder.parameters()) == 27_138_947
    with torch.device("meta"):
        smaller = WaveletDecoder.of(WaveletDiscriminator(image_size=(256, 256)))
        decoded = smaller([torch.empty(1, 512, size, size) for size in (64, 32, 16, 8, 4)])
    assert decoded.shape == (1, 3, 256, 256)


def test_every_map_and_every_weight_takes_part():
    discriminator, decoder = make()
    (layers,) = discriminator(torch.rand(2, 1, 32, 64))
    features = [layer.detach().requires_grad_() for layer in layers[:-1]]
    decoder(features).square().mean().backward()
    assert all(feature.grad.any() for feature in features)
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_learns_to_tell_the_image():
    discriminator, decoder = make(dropout=0.0)
    image = torch.nn.functional.interpolate(torch.rand(4, 1, 4, 8) * 2 - 1, size=(32, 64), mode="bilinear")
    features = [layer.detach() for layer in discriminator(image)[0][:-1]]
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    errors = []
    for _ in range(30):
        optimizer.zero_grad()
        error = (decoder(features) - image).abs().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def test_dropout_is_in_the_first_two_steps_and_off_in_evaluation():
    _, decoder = make((128, 128))
    kinds = [type(up[-1]).__name__ for up in decoder.ups]
    assert kinds == ["Dropout", "Dropout", "Identity", "Identity"]
    features = [torch.rand(1, channels, size, size) for channels, size in zip((8,) * 4, (32, 16, 8, 4), strict=True)]
    assert not torch.equal(decoder(features), decoder(features))
    decoder.eval()
    assert torch.equal(decoder(features), decoder(features))


def test_other_maps_are_refused():
    discriminator, decoder = make()
    (layers,) = discriminator(torch.rand(1, 1, 32, 64))
    with pytest.raises(GeometryError, match=r"gives 3 maps.*built for \[8, 8, 8\]|WaveletDecoder.of"):
        decoder(layers)
    with pytest.raises(GeometryError, match=r"gives 2 maps with \[8, 8\]"):
        decoder(layers[:2])


@pytest.mark.parametrize(
    "options", [{"spatial_dims": 1}, {"feature_channels": []}, {"feature_channels": [0]}, {"dropout": 1.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        WaveletDecoder(**{"feature_channels": [4], **options})

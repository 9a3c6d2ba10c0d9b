import pytest

from monai_synth.networks import build
from monai_synth.networks.structure import fingerprint


def test_equal_networks_have_equal_fingerprints_whatever_their_weights():
    assert fingerprint(build("resnet", channels=2)) == fingerprint(build("resnet", channels=2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"padding": "replicate"}),
        ("resnet", {"upsample": "resize"}),
        ("pix2pix_unet", {"num_downs": 4}),
        ("spade", {"in_channels": 3, "upsampling": "more"}),
        ("spade", {"in_channels": 3, "norm": "instance"}),
        ("oasis", {"in_channels": 3, "noise_channels": 4}),
    ],
)
def test_options_that_change_the_image_change_the_fingerprint(name, options):
    plain = {"in_channels": options.get("in_channels", 1), "channels": 2}
    assert fingerprint(build(name, **plain)) != fingerprint(build(name, **{**plain, **options}))

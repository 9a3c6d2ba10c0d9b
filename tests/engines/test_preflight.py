"""What is looked at before a training begins."""

import re

import pytest

from monai_synth.engines import check_patch_size
from monai_synth.errors import ConfigError
from monai_synth.networks import build


def test_patches_that_the_generator_takes_pass() -> None:
    network = build("pix2pix_unet", in_channels=1, out_channels=1, channels=2, num_downs=5)
    check_patch_size([64, 96], network)
    check_patch_size(32, network)


@pytest.mark.parametrize(("size", "fitting"), [([200, 64], [192, 64]), ([10, 32], [32, 32]), (100, 96)])
def test_other_patches_are_refused_with_a_size_that_fits(size: int | list[int], fitting: int | list[int]) -> None:
    network = build("pix2pix_unet", in_channels=1, out_channels=1, channels=2, num_downs=5)
    with pytest.raises(ConfigError, match=f"multiples of 32.*--patch_size {re.escape(str(fitting))}"):
        check_patch_size(size, network)
    check_patch_size(fitting, network)

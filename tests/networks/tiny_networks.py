"""A small twin of every registered network, and variants of it, for the laws in test_registry.py."""

# Arguments that make the network tiny; in_channels is always 2.
TINY: dict[str, dict] = {
    "pix2pix_unet": {"channels": 4, "num_downs": 3},
    "patchgan": {"channels": 4, "num_layers": 2},
}

# Every entry inherits all laws with each of these on top of TINY; {} is the published form.
VARIANTS: dict[str, list[dict]] = {
    "pix2pix_unet": [
        {},
        {"norm": "instance"},
        {"norm": "group", "attention": True},
        {"upsample": "resize", "num_downs": 6, "channels": 2, "channels_last": True},
        {"spatial_dims": 3, "attention": True, "upsample": "resize"},
    ],
    "patchgan": [
        {},
        {"norm": "instance", "channels_last": True},
        {"num_layers": 0},
        {"spatial_dims": 3, "norm": "group"},
        {"padding": 2, "use_spectral_norm": True, "norm": "instance", "conv_bias": False},
    ],
}

# (network, law) -> why the mathematics does not allow it. A law that is not listed holds.
EXCEPTIONS: dict[tuple[str, str], str] = {}

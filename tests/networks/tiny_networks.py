"""A small twin of every registered network, and variants of it, for the laws in test_registry.py."""

# Arguments that make the network tiny; in_channels is always 2.
TINY: dict[str, dict] = {
    "pix2pix_unet": {"channels": 4, "num_downs": 3},
    "resnet": {"channels": 4, "num_blocks": 2},
    "cut_resnet": {"channels": 4, "num_blocks": 2},
    "pix2pixhd_global": {"channels": 2, "num_downs": 3, "num_blocks": 1},
    "pix2pixhd_local": {"channels": 2, "num_downs": 2, "num_blocks": 1, "num_local_blocks": 1},
    "oasis": {"channels": 2, "noise_channels": 3, "hidden_channels": 6},
    "oasis_discriminator": {"channels": 4, "num_classes": 3},
    "usis_wavelet": {"channels": 1, "num_blocks": 3, "noise_channels": 3, "hidden_channels": 4},
    "wavelet_generator": {"channels": 1, "num_blocks": 3, "noise_channels": 3, "hidden_channels": 4},
    "wavelet_discriminator": {"channels": 4, "max_channels": 8, "image_size": (32, 64)},
    "patchgan": {"channels": 4, "num_layers": 2},
    "cut_patchgan": {"channels": 4, "num_layers": 2},
    "pix2pixhd_multiscale": {"channels": 4, "num_layers": 2},
    "spade_multiscale": {"channels": 4, "num_layers": 2},
    "spade": {"channels": 2, "hidden_channels": 4},
    "spade_vae": {"channels": 2, "hidden_channels": 4, "noise_channels": 3, "latent_size": (2, 3)},
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
    "resnet": [
        {},
        {"norm": "batch", "dropout": 0.5, "padding": "zero", "channels_last": True},
        {"norm": "group", "padding": "replicate", "upsample": "resize", "num_downs": 3, "channels": 2},
        {"norm": "none", "conv_bias": True},
        {"spatial_dims": 3, "channels": 2, "num_blocks": 1, "num_downs": 1},
    ],
    "cut_resnet": [
        {},
        {"norm": "batch", "channels_last": True},
        {"antialias_down": False, "norm": "none"},
        {"spatial_dims": 3, "padding": "replicate", "channels": 2, "num_blocks": 1},
    ],
    "pix2pixhd_global": [{}, {"norm": "batch", "upsample": "resize"}, {"spatial_dims": 3, "padding": "replicate"}],
    "pix2pixhd_local": [
        {},
        {"num_enhancers": 2, "num_downs": 1, "norm": "batch", "channels_last": True},
        {"upsample": "resize", "norm": "group", "num_local_blocks": 0},
        {"norm": "none", "padding": "zero"},
        {"spatial_dims": 3, "padding": "replicate"},
    ],
    "oasis": [
        {},
        {"norm": "instance", "edge_channels": 1, "kernel_size": 5},
        {"norm": "group", "noise_channels": 0, "use_spectral_norm": False, "channels_last": True},
        {"spatial_dims": 3, "edge_channels": 1},
    ],
    "oasis_discriminator": [{}, {"use_spectral_norm": False, "channels_last": True}, {"spatial_dims": 3}],
    "spade": [
        {},
        {"norm": "instance", "upsampling": "more", "kernel_size": 5},
        {"norm": "group", "use_spectral_norm": False, "channels_last": True},
        {"norm": "none", "upsampling": "most"},
        {"spatial_dims": 3, "channels": 1, "hidden_channels": 2},
    ],
    "spade_vae": [{}, {"norm": "instance", "latent_size": (1, 4), "channels_last": True}],
    "usis_wavelet": [
        {},
        {"norm": "instance", "kernel_size": 5},
        {"norm": "group", "noise_channels": 0, "use_spectral_norm": False, "channels": 2, "channels_last": True},
        {"norm": "none", "num_blocks": 1},
        {"spatial_dims": 3, "channels": 2, "num_blocks": 2},
    ],
    "wavelet_generator": [
        {},
        {"norm": "instance", "kernel_size": 5},
        {"norm": "group", "noise_channels": 0, "use_spectral_norm": False, "channels_last": True},
        {"spatial_dims": 3, "channels": 2, "num_blocks": 2},
    ],
    "wavelet_discriminator": [
        {},
        {"image_size": (24, 24), "channels": 2, "channels_last": True},
        {"spatial_dims": 3, "image_size": (16, 32, 16)},
    ],
    "patchgan": [
        {},
        {"norm": "instance", "channels_last": True},
        {"num_layers": 0},
        {"spatial_dims": 3, "norm": "group"},
        {"padding": 2, "use_spectral_norm": True, "norm": "instance", "conv_bias": False},
    ],
    "cut_patchgan": [
        {},
        {"norm": "batch", "channels_last": True},
        {"padding": 2, "use_spectral_norm": True, "norm": "none"},
        {"spatial_dims": 3, "num_layers": 1},
    ],
    "pix2pixhd_multiscale": [
        {},
        {"norm": "batch", "num_scales": 3, "channels_last": True},
        {"norm": "none", "max_channels": 6, "use_sigmoid": True},
        {"spatial_dims": 3, "norm": "group", "num_scales": 1},
    ],
    "spade_multiscale": [
        {},
        {"norm": "batch", "num_scales": 3, "num_layers": 1},
        {"norm": "none", "conv_bias": True, "channels_last": True},
        {"spatial_dims": 3},
    ],
}

# (network, law) -> why the mathematics does not allow it. A law that is not listed holds.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("wavelet_discriminator", "two_batches_of_one_are_one_batch_of_two"): (
        "its images meet: one channel tells how much the images of a batch differ"
    ),
    ("oasis_discriminator", "logits_have_one_channel"): "it has one channel per class and one for fake",
}

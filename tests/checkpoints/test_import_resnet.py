import json

import numpy as np
import pytest
import torch

from monai_synth.checkpoints import import_checkpoint
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks import FeatureEncoder, LocalEnhancer, ResNetGenerator

PUBLISHED = [
    ("keys_pix2pix", "resnet_9blocks_instance_nodropout(CycleGAN)", ResNetGenerator),
    ("keys_pix2pix", "resnet_9blocks_instance_dropout", ResNetGenerator),
    ("keys_pix2pix", "resnet_6blocks_instance", ResNetGenerator),
    ("keys_pix2pix", "resnet_9blocks_batch", ResNetGenerator),
    ("keys_cut", "G_resnet9_antialias(published CUT/FastCUT)", ResNetGenerator),
    ("keys_pix2pixHD", "G_global_label2city_512p(36->3)", ResNetGenerator),
    ("keys_pix2pixHD", "G_global_feat(39->3)", ResNetGenerator),
    ("keys_pix2pixHD", "G_local_label2city_1024p(36->3,ngf32)", LocalEnhancer),
    ("keys_pix2pixHD", "G_local_feat(39->3,ngf32)", LocalEnhancer),
    ("keys_pix2pixHD", "E_encoder_nef16", FeatureEncoder),
]
FAMILY = {ResNetGenerator: "resnet", LocalEnhancer: "pix2pixhd_local", FeatureEncoder: "pix2pixhd_encoder"}


def official_state(network, **prefixes):
    """The state dict of one of ours under official names, its blocks as in the published files."""
    inner = {"conv_0": 1, "norm_0": 2, "conv_1": 5, "norm_1": 6}
    state = {}
    for key, value in network.state_dict().items():
        head, _, rest = key.partition("layers.")
        place, *middle, entry = rest.split(".")
        block = f".conv_block.{inner[middle[0]]}" if middle else ""
        state[f"{prefixes.get(head.replace('.', '_'), 'model')}.{place}{block}.{entry}"] = value
    return state


def save(state, folder):
    torch.save(state, folder / "latest_net_G.pth")
    return folder / "latest_net_G.pth"


@pytest.mark.parametrize(("file", "name", "network_class"), PUBLISHED)
def test_every_published_key_finds_its_place(shared_dir, tmp_path, file, name, network_class):
    entry = json.loads((shared_dir / "golden" / f"{file}.json").read_text())["networks"][name]
    state = {
        # A full-width file of zeros takes no memory, and none on disk.
        key: torch.zeros((), dtype=getattr(torch, dtype.removeprefix("torch."))).expand(shape)
        for key, shape, dtype, _ in entry["keys"]
    }
    for key in [key for key in state if key.endswith(".filt")]:
        taps = np.array([1, 2, 1] if state[key].shape[-1] == 3 else [1, 3, 3, 1], dtype=np.float32) / 4
        state[key] = torch.from_numpy(np.outer(taps, taps)).expand(state[key].shape)
    found = import_checkpoint(save(state, tmp_path))
    assert found.family == FAMILY[network_class]
    assert isinstance(found.network, network_class)
    assert sum(p.numel() for p in found.network.parameters()) == entry["n_params"]
    assert {*found.report.used, *found.report.dropped} == set(state)
    assert all(key.endswith(".filt") for key in found.report.dropped)
    assert set(found.report.used.values()) == set(found.network.state_dict())


def test_statistics_of_an_old_instance_norm_are_dropped_with_the_reason(shared_dir):
    golden = np.load(shared_dir / "golden" / "import_cyclegan_resnet_instance_runningstats.npz")
    config = json.loads(str(golden["config"]))
    found = import_checkpoint(shared_dir / "golden" / config["file"])
    with torch.no_grad():
        np.testing.assert_allclose(found.network(torch.from_numpy(golden["in/x"])), golden["out/eval"], atol=1e-4)
    assert found.network_def == {
        "_target_": "monai_synth.networks.resnet.ResNetGenerator",
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 3,
        "channels": 4,
        "num_downs": 2,
        "num_blocks": 3,
        "norm": "instance",
        "dropout": 0.0,
        "padding": "reflect",
        "conv_bias": True,
        "antialias_down": False,
        "antialias_up": False,
    }
    assert found.report.dropped
    assert all("torch 0.3" in reason for reason in found.report.dropped.values())
    assert "check padding='reflect'" in str(found.report)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "none"},
        {"norm": "batch", "conv_bias": True, "num_downs": 3},
        {"antialias_down": True},
        {"antialias_up": True, "norm": "batch"},
        {"spatial_dims": 3, "antialias_down": True, "antialias_up": True},
    ],
)
def test_options_are_read_from_keys_and_shapes(tmp_path, options):
    network = ResNetGenerator(in_channels=2, channels=2, num_blocks=1, **options)
    state = official_state(network)
    for i, layer in enumerate(network.layers):
        kernel, dims = None, options.get("spatial_dims", 2)
        if type(layer).__name__ == "BlurDown":
            kernel = layer.kernel
        elif type(layer).__name__ == "BlurUp":
            line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
            kernel = torch.einsum("i,j,k->ijk", line, line, line) if dims == 3 else torch.outer(line, line)
            kernel = kernel.expand(4, 1, *kernel.shape)
        if kernel is not None:
            state[f"model.{i}.filt"] = kernel
    found = import_checkpoint(save(state, tmp_path))
    assert all(found.network_def[key] == value for key, value in options.items())
    x = torch.randn(1, 2, *[16] * options.get("spatial_dims", 2))
    assert torch.equal(found.network(x), network.eval()(x))


@pytest.mark.parametrize("options", [{}, {"num_enhancers": 2, "norm": "batch"}, {"num_blocks": 0, "spatial_dims": 3}])
def test_several_enhancers_are_read(tmp_path, options):
    arguments = {"in_channels": 2, "channels": 2, "num_downs": 2, "num_blocks": 1, "num_local_blocks": 1, **options}
    network = LocalEnhancer(**arguments).eval()
    names = {f"enhancers_{n}_{part}_": f"model{n + 1}_{k}" for n in range(2) for k, part in ((1, "down"), (2, "up"))}
    found = import_checkpoint(save(official_state(network, **names), tmp_path))
    assert found.family == "pix2pixhd_local"
    assert all(found.network_def[key] == value for key, value in arguments.items())
    x = torch.randn(1, 2, *[2 * network.stride] * arguments.get("spatial_dims", 2))
    assert torch.equal(found.network(x), network(x))


def test_an_encoder_with_batch_norm_is_read(tmp_path):
    network = FeatureEncoder(in_channels=2, channels=2, num_downs=2, norm="batch").eval()
    found = import_checkpoint(save(official_state(network), tmp_path))
    assert found.family == "pix2pixhd_encoder"
    assert (found.network_def["num_downs"], found.network_def["norm"]) == (2, "batch")
    x, instances = torch.randn(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)
    assert torch.equal(found.network(x, instances), network(x, instances))


def test_hints_win_and_unknown_ones_are_refused(tmp_path):
    file = save(official_state(ResNetGenerator(channels=2, num_blocks=1)), tmp_path)
    found = import_checkpoint(file, padding="replicate", dropout=0.25)
    assert (found.network_def["padding"], found.network_def["dropout"]) == ("replicate", 0.25)
    assert found.network.layers[10].pad.__class__.__name__ == "ReplicationPad2d"
    assert "padding='replicate', as given" in str(found.report)
    with pytest.raises(CheckpointError, match="padding='zero' does not fit this file"):
        import_checkpoint(file, padding="zero")
    with pytest.raises(CheckpointError, match="has num_blocks=1 by its entries, so num_blocks=9 cannot be right"):
        import_checkpoint(file, num_blocks=9)
    with pytest.raises(ConfigError, match="no argument n_blocks"):
        import_checkpoint(file, n_blocks=9)


def test_dropout_is_seen_in_the_places_of_the_layers(tmp_path):
    state = official_state(ResNetGenerator(channels=2, num_blocks=2, norm="batch"))
    moved = {
        key.replace("conv_block.6", "conv_block.7").replace("conv_block.5", "conv_block.6"): state[key] for key in state
    }
    found = import_checkpoint(save(moved, tmp_path))
    assert found.network_def["dropout"] == 0.5
    assert "check dropout=0.5" in str(found.report)
    assert "train mode" in str(found.report)


def test_another_blur_is_refused(tmp_path):
    network = ResNetGenerator(channels=2, num_blocks=1, antialias_down=True)
    blurs = {"model.7.filt": network.layers[7].kernel, "model.11.filt": network.layers[11].kernel}
    state = {**official_state(network), **blurs}
    assert len(import_checkpoint(save(state, tmp_path)).report.dropped) == 2
    for wrong in (torch.full((4, 1, 3, 3), 1 / 9), torch.ones(4, 1, 4, 4) / 16):
        with pytest.raises(CheckpointError, match=r"model\.7\.filt is not the blur \[1, 2, 1\] of CUT"):
            import_checkpoint(save({**state, "model.7.filt": wrong}, tmp_path))


def test_a_modified_network_is_refused(tmp_path):
    state = official_state(ResNetGenerator(channels=2, num_blocks=2))
    two_kinds = {key.replace("11.conv_block.5", "11.conv_block.4"): value for key, value in state.items()}
    with pytest.raises(CheckpointError, match="looks like resnet, but its layout.*residual block"):
        import_checkpoint(save(two_kinds, tmp_path))
    uneven = {key: value for key, value in state.items() if not key.startswith("model.15.")}
    with pytest.raises(CheckpointError, match="looks like resnet, but its layout.*in front of them"):
        import_checkpoint(save(uneven, tmp_path))
    more = {**state, "model.30.weight_g": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"layers\.30\.weight_g|model\.30\.weight_g"):
        import_checkpoint(save(more, tmp_path))
    encoder = official_state(FeatureEncoder(channels=2, num_downs=1))
    with pytest.raises(CheckpointError, match="looks like pix2pixhd_encoder, but its layout"):
        import_checkpoint(save({**encoder, "model.20.weight": torch.zeros(2, 2, 3, 3)}, tmp_path))

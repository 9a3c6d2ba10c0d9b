import json

import pytest
import torch
from monai.bundle import ckpt_export

from monai_synth.checkpoints import save_weights
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.networks import UNetGenerator

GOLDEN = [
    ("p2p_unet5_batch", "eval"),
    ("p2p_unet5_batch", "train"),
    ("p2p_unet5_instance", "eval"),
    ("p2p_unet5_instance", "train"),
    ("p2p_unet6_batch_dropout", "eval"),
    ("p2p_unet256_instance", "eval"),
    ("p2p_unet256_instance", "train"),
]


@pytest.mark.parametrize(("name", "mode"), GOLDEN)
def test_equals_the_official_network(golden_case, name, mode):
    case = golden_case(name)
    differences = case.check(mode)
    assert case.imported.network_def["num_downs"] == case.config["num_downs"]
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_p2p_unet256_batch")
    keys_file = shared_dir / "golden" / "keys_pix2pix.json"
    difference = case.check_published(
        keys_file, "unet_256_batch_3to3_dropout", lambda key: key.endswith((".3.weight", ".5.weight"))
    )
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("channels", "norm", "count"),
    [(1, "batch", 54_407_809), (3, "batch", 54_413_955), (1, "instance", 54_403_457), (3, "instance", 54_409_603)],
)
def test_parameter_counts_are_the_published_ones(channels, norm, count):
    with torch.device("meta"):
        network = UNetGenerator(in_channels=channels, out_channels=channels, norm=norm)
    assert sum(p.numel() for p in network.parameters()) == count


def test_dropout_sits_in_three_levels_as_published():
    network = UNetGenerator(channels=2, dropout=0.5)
    at = [j for j, up in enumerate(network.ups) if isinstance(up.dropout, torch.nn.Dropout)]
    assert at == [1, 2, 3]
    assert not any(
        isinstance(m, torch.nn.Dropout) for m in UNetGenerator(channels=2, num_downs=5, dropout=0.5).modules()
    )


def test_dropout_is_live_in_training_only():
    network = UNetGenerator(channels=2, num_downs=6, dropout=0.5)
    x = torch.randn(2, 1, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_state_dict_keys_are_readable():
    keys = UNetGenerator(channels=2, num_downs=3, attention=True).state_dict()
    assert {"downs.0.conv.weight", "downs.1.norm.weight", "ups.0.norm.weight", "ups.2.conv.bias"} <= keys.keys()
    assert any(key.startswith("ups.1.gate.") for key in keys)
    assert not any(key.startswith(("downs.0.norm", "downs.2.norm", "ups.2.norm", "ups.2.gate")) for key in keys)


def test_resize_leaves_no_checkerboard_in_a_constant_image():
    torch.manual_seed(0)
    x = torch.full((1, 1, 32, 32), 0.5)
    spread = {}
    for upsample in ("transposed", "resize"):
        network = UNetGenerator(channels=8, num_downs=2, norm="none", upsample=upsample, init_gain=0.2).eval()
        out = network(x)[..., 12:20, 12:20]
        spread[upsample] = float(out.std() / out.abs().mean())
    assert spread["resize"] < 1e-5 < 1e-2 < spread["transposed"]


def test_attention_gates_change_the_skips():
    torch.manual_seed(0)
    network = UNetGenerator(channels=4, num_downs=3, attention=True).eval()
    x = torch.randn(1, 1, 16, 16)
    before = network(x)
    with torch.no_grad():
        for up in list(network.ups)[:-1]:
            up.gate.psi[1].bias.fill_(-50)  # sigmoid 0: nothing passes
    assert not torch.allclose(before, network(x), atol=1e-6)


def test_a_size_that_is_no_multiple_names_size_stride_and_way_out():
    network = UNetGenerator(channels=2, num_downs=3)
    with pytest.raises(GeometryError, match=r"\[16, 20\].*multiple of 8.*VolumeInferer"):
        network(torch.zeros(1, 1, 16, 20))
    with pytest.raises(torch.jit.Error, match=r"GeometryError: The input has size \[16, 20\]"):
        torch.jit.script(network)(torch.zeros(1, 1, 16, 20))


@pytest.mark.parametrize(
    "options", [{"norm": "layer"}, {"upsample": "bilinear"}, {"num_downs": 1}, {"spatial_dims": 1}, {"dropout": 1.0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        UNetGenerator(channels=2, **options)


def test_monai_exports_a_bundle_network_to_torchscript(tmp_path):
    network_def = {"_target_": "monai_synth.networks.UNetGenerator", "channels": 2, "num_downs": 3, "attention": True}
    (tmp_path / "inference.json").write_text(json.dumps({"network_def": network_def}))
    (tmp_path / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    network = UNetGenerator(channels=2, num_downs=3, attention=True).eval()
    save_weights(network, tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(tmp_path / "metadata.json"),
        config_file=str(tmp_path / "inference.json"),
    )
    x = torch.randn(1, 1, 16, 24)
    with torch.no_grad():
        assert float((torch.jit.load(tmp_path / "model.ts").eval()(x) - network(x)).abs().max()) <= 1e-4

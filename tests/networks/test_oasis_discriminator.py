import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.networks import OASISDiscriminator


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", ["oasis_D", "oasis_D_nosn"])
def test_equals_the_official_network(golden_case, name, mode):
    case = golden_case(name)
    differences = case.check(mode)
    assert case.imported.network_def["use_spectral_norm"] == (name == "oasis_D")
    assert differences.pop("out") <= case.tolerance(mode)
    assert max(differences.values()) <= 1e-4, differences


def test_equals_the_official_network_at_published_width(shared_dir, golden_case):
    case = golden_case("full_oasis_cityscapes_D")
    # The file keeps every fourth pixel of the logits.
    plain_match = case.match
    case.match = lambda mode, out: plain_match(mode, [[logits[..., ::4, ::4] for logits in out[0]]])
    difference = case.check_published(shared_dir / "golden" / "keys_oasis.json", "D_cityscapes")
    assert difference <= case.tolerance("eval")


@pytest.mark.parametrize(
    ("num_classes", "count"), [(35, 22_251_364), (38, 22_251_559), (151, 22_258_904), (183, 22_260_984)]
)
def test_parameter_counts_are_the_published_ones(num_classes, count):
    with torch.device("meta"):
        network = OASISDiscriminator(num_classes=num_classes)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    "size",
    [(64, 128), (65, 127), (1, 1), (3, 70), (32, 32, 32), (33, 40, 1)],
    ids=lambda size: "x".join(map(str, size)),
)
def test_every_size_keeps_its_size(size):
    network = OASISDiscriminator(spatial_dims=len(size), in_channels=1, num_classes=4, channels=2)
    (layers,) = network(torch.randn(1, 1, *size))
    assert layers[-1].shape == (1, 5, *size)
    assert layers[-2].shape == (1, 1, *size)
    assert layers[-1].isfinite().all()


def test_an_odd_size_shifts_nothing():
    torch.manual_seed(0)
    network = OASISDiscriminator(in_channels=1, num_classes=2, channels=4, init_gain=1.0).eval()
    x = torch.randn(1, 1, 64, 1025)
    with torch.no_grad():
        odd, even = network(x)[0][-1], network(x[..., :-1])[0][-1]
    gap = (odd[..., :-1] - even).abs().amax((0, 1, 2))
    # Only what sees the end differs: a logit depends on about 320 pixels to its right.
    assert gap[:640].max() <= 1e-5
    assert gap[-64:].max() > 1e-3


def test_returns_the_features_of_the_way_up_and_the_logits_last():
    (layers,) = OASISDiscriminator(num_classes=3, channels=4)(torch.randn(2, 3, 64, 64))
    assert [tuple(t.shape[1:]) for t in layers] == [
        (16, 2, 2),
        (8, 4, 4),
        (8, 8, 8),
        (4, 16, 16),
        (4, 32, 32),
        (2, 64, 64),
        (4, 64, 64),
    ]


def test_state_dict_keys_are_readable():
    keys = OASISDiscriminator(num_classes=3, channels=4, use_spectral_norm=False).state_dict()
    assert {"downs.0.conv_0.weight", "downs.0.conv_s.bias", "ups.5.conv_1.weight", "head.bias"} <= keys.keys()
    assert not any(key.startswith(("downs.1.conv_s", "ups.0.conv_s")) for key in keys)


@pytest.mark.parametrize("options", [{"spatial_dims": 1}, {"num_classes": 0}, {"channels": 1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        OASISDiscriminator(**{"num_classes": 3, "channels": 4, **options})

import json

import numpy as np
import pytest
import torch
from torch import nn

from monai_synth.checkpoints import import_checkpoint
from monai_synth.checkpoints.importers.family import _rebuild_v
from monai_synth.errors import CheckpointError, ConfigError
from monai_synth.networks import SPADEGenerator, StyleEncoder

GENERATORS = [
    "G_ade20k(150+1,no_instance,256)",
    "G_cityscapes(35+edge,more,512)",
    "G_coco(182+1+edge)",
]
ENCODER = "E_convencoder(256)"


def golden_state(shared_dir, name):
    golden = np.load(shared_dir / "golden" / f"{name}.npz")
    return {
        key.removeprefix("sd/"): torch.from_numpy(golden[key]).reshape(
            () if key.endswith("tracked") else golden[key].shape
        )
        for key in golden.files
        if key.startswith("sd/")
    }


def save(state, folder, name="latest_net_G.pth"):
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("name", [*GENERATORS, ENCODER])
def test_every_published_key_finds_its_place(shared_dir, tmp_path, name):
    entry = json.loads((shared_dir / "golden" / "keys_spade.json").read_text())["networks"][name]
    state = {
        # One stored zero, so that the file stays small.
        key: torch.zeros((), dtype=getattr(torch, dtype.removeprefix("torch."))).expand(shape)
        for key, shape, dtype, _ in entry["keys"]
    }
    found = import_checkpoint(save(state, tmp_path))
    assert found.family == ("spade_encoder" if name == ENCODER else "spade")
    assert isinstance(found.network, StyleEncoder if name == ENCODER else SPADEGenerator)
    assert sum(p.numel() for p in found.network.parameters()) == entry["n_params"]
    assert set(found.report.used) == set(state)
    assert set(found.report.used.values()) == set(found.network.state_dict())


def test_everything_is_read_from_keys_and_shapes(shared_dir, tmp_path):
    found = import_checkpoint(save(golden_state(shared_dir, "spade_G_syncbatch_normal"), tmp_path))
    assert found.network_def == {
        "_target_": "monai_synth.networks.spade.SPADEGenerator",
        "spatial_dims": 2,
        "in_channels": 6,
        "out_channels": 3,
        "channels": 3,
        "upsampling": "normal",
        "hidden_channels": 12,
        "kernel_size": 3,
        "norm": "batch",
        "use_spectral_norm": True,
    }
    assert "check upsampling='normal'" in str(found.report)


def test_more_is_said_by_the_user(shared_dir, tmp_path):
    file = save(golden_state(shared_dir, "spade_G_instance_more"), tmp_path)
    assert import_checkpoint(file).network.stride == 32
    found = import_checkpoint(file, upsampling="more")
    assert found.network.stride == 64
    assert found.network_def["norm"] == "instance"
    assert found.report.notes == ("upsampling='more', as given.",)
    assert not found.report.guesses
    with pytest.raises(ConfigError, match="no argument num_upsampling_layers"):
        import_checkpoint(file, num_upsampling_layers="more")


@pytest.mark.parametrize("options", [{"upsampling": "most"}, {"kernel_size": 5}, {"spatial_dims": 3}, {"channels": 3}])
@pytest.mark.parametrize("use_spectral_norm", [True, False])
def test_the_published_names_are_those_of_ours_backwards(tmp_path, options, use_spectral_norm):
    arguments = {
        "in_channels": 2,
        "out_channels": 3,
        "channels": 2,
        "hidden_channels": 4,
        "use_spectral_norm": use_spectral_norm,
        **options,
    }
    network = SPADEGenerator(**arguments)
    found = import_checkpoint(save(as_official(network), tmp_path))
    assert {**found.network_def, **arguments} == found.network_def
    for key, value in network.state_dict().items():
        assert torch.equal(found.network.state_dict()[key], value)


def as_official(network: SPADEGenerator) -> dict[str, torch.Tensor]:
    """Our state dict under the published names."""
    blocks = ["head_0", "G_middle_0", "G_middle_1", *(f"up_{i}" for i in range(5))]
    renamed = {}
    for key, value in network.state_dict().items():
        name = key.replace("stem.", "fc.").replace("head.", "conv_img.")
        for ours, theirs in (
            (".norm.", ".param_free_norm."),
            (".shared.", ".mlp_shared.0."),
            (".gamma.", ".mlp_gamma."),
            (".beta.", ".mlp_beta."),
            ("parametrizations.weight.original", "weight_orig"),
            ("parametrizations.weight.0._", "weight_"),
        ):
            name = name.replace(ours, theirs)
        for i, block in enumerate(blocks):
            name = name.replace(f"blocks.{i}.", f"{block}.")
        renamed[name] = value
    return renamed


def test_the_vae_is_recognised_and_its_grid_taken_as_square(shared_dir, tmp_path):
    state = golden_state(shared_dir, "spade_G_batch_vae")
    found = import_checkpoint(save(state, tmp_path))
    assert (found.network_def["noise_channels"], found.network_def["latent_size"]) == (8, [2, 2])
    assert found.network_def["in_channels"] == 5
    assert not found.network_def["use_spectral_norm"]
    assert "check latent_size=[2, 2]" in str(found.report)
    found = import_checkpoint(save(state, tmp_path), latent_size=(1, 4))
    assert found.network.latent_size == [1, 4]
    assert "check latent_size" not in str(found.report)


def test_a_grid_that_is_no_square_has_to_be_named(tmp_path):
    network = SPADEGenerator(
        in_channels=2, channels=1, hidden_channels=2, noise_channels=3, latent_size=(1, 2), use_spectral_norm=False
    )
    file = save(as_official(network), tmp_path)
    with pytest.raises(CheckpointError, match=r"grid of 2 values.*latent_size="):
        import_checkpoint(file)
    assert import_checkpoint(file, latent_size=(1, 2)).network.latent_size == [1, 2]
    with pytest.raises(CheckpointError, match="stem.weight"):
        import_checkpoint(file, latent_size=(2, 2))


def test_weights_of_torch_04_give_the_official_output(shared_dir):
    golden = np.load(shared_dir / "golden" / "import_spade_oldsn.npz")
    file = shared_dir / "golden" / "import_spade_oldsn.pth"
    found = import_checkpoint(file)
    with torch.no_grad():
        np.testing.assert_allclose(found.network(torch.from_numpy(golden["in/x"])), golden["out/eval"], atol=1e-4)
    old = torch.load(file, weights_only=True)
    vectors = [key for key in golden.files if key.startswith("out/v/")]
    assert len(found.report.computed) == len(vectors) == 18
    assert sum("torch 0.4" in reason for reason in found.report.dropped.values()) == 18
    ours = found.network.state_dict()
    for key in vectors:
        layer = key.removeprefix("out/v/").removesuffix(".weight_v")
        original = found.report.used[f"{layer}.weight_orig"]
        v, official = ours[original.replace("original", "0._v")].double(), torch.from_numpy(golden[key]).double()
        matrix, u = old[f"{layer}.weight_orig"].double().flatten(1), old[f"{layer}.weight_u"].double()
        sigma = torch.dot(u, matrix @ v)
        assert float(torch.dot(u, matrix @ official) / sigma) == pytest.approx(1, abs=2e-6)
        # u is W v again, and v of length 1. The v of torch's hook gives the singular value alone.
        assert torch.allclose(matrix @ v, sigma * u, atol=1e-6)
        assert float(v.norm()) == pytest.approx(1, abs=1e-6)
        weight = found.network.get_submodule(original.split(".parametrizations")[0]).weight
        assert torch.allclose(weight, old[f"{layer}.weight"], atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (40, 2, 3, 3), (5, 5, 1, 1), (1, 3, 3, 3)])
def test_a_missing_v_is_rebuilt_from_any_shape(shape):
    torch.manual_seed(0)
    original = torch.randn(shape)
    matrix = original.flatten(1)
    v = nn.functional.normalize(torch.randn(matrix.shape[1]), dim=0)
    for _ in range(3):  # not converged: u is W v, as after any training step
        u = nn.functional.normalize(matrix @ v, dim=0)
        v = nn.functional.normalize(matrix.t() @ u, dim=0)
    u = nn.functional.normalize(matrix @ v, dim=0)
    rebuilt = _rebuild_v(original, original / torch.dot(u, matrix @ v), u)
    assert torch.allclose(rebuilt, v, atol=1e-5)


def test_a_missing_v_is_rebuilt_where_rows_depend_on_each_other():
    # Two rows alike up to rounding: their difference must not blow up.
    torch.manual_seed(0)
    original = torch.randn(6, 4, 3, 3)
    original[5] = original[4] * (1 + 1e-7)
    matrix = original.flatten(1)
    u = nn.functional.normalize(torch.randn(6), dim=0)
    rebuilt = _rebuild_v(original, original / 2.5, u)
    assert float(torch.dot(u, matrix @ rebuilt)) == pytest.approx(2.5, rel=1e-5)
    assert rebuilt.norm() < 100


def test_folded_weights_give_the_same_output(shared_dir):
    file = shared_dir / "golden" / "import_spade_oldsn.pth"
    found, folded = import_checkpoint(file), import_checkpoint(file, fold_spectral_norm=True)
    assert not folded.network_def["use_spectral_norm"]
    x = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        assert torch.allclose(found.network(x), folded.network(x), atol=1e-6)


@pytest.mark.parametrize(("norm", "entries"), [("batch", 5), ("none", 1), ("instance", 0)])
def test_the_encoder_is_read_with_any_norm(tmp_path, norm, entries):
    network = StyleEncoder(
        in_channels=2,
        channels=2,
        noise_channels=3,
        num_layers=3,
        image_size=(16, 16),
        norm=norm,
        use_spectral_norm=False,
    )
    state = {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "layers":
            name = f"layer{int(parts[1]) + 1}.{'01'[parts[2] == 'norm']}.{parts[3]}"
        else:
            name = key.replace("mu.", "fc_mu.").replace("logvar.", "fc_var.")
        state[name] = value
    found = import_checkpoint(save(state, tmp_path, "latest_net_E.pth"))
    assert found.family == "spade_encoder"
    expected = {"norm": norm, "image_size": [16, 16], "num_layers": 3, "noise_channels": 3, "use_spectral_norm": False}
    assert {**found.network_def, **expected} == found.network_def
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(found.network(x)[1], network.eval()(x)[1])
    assert len([key for key in state if key.startswith("layer1")]) == 1 + entries
    with pytest.raises(CheckpointError, match="image_size="):
        import_checkpoint(save({**state, "fc_mu.weight": torch.zeros(3, 24)}, tmp_path))
    assert import_checkpoint(save(state, tmp_path), image_size=(8, 32)).network.image_size == [8, 32]


def test_an_incomplete_generator_is_refused(shared_dir, tmp_path):
    state = golden_state(shared_dir, "spade_G_syncbatch_normal")
    shorter = {key: value for key, value in state.items() if key != "up_1.norm_s.mlp_beta.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.4\.norm_s\.beta\.bias"):
        import_checkpoint(save(shorter, tmp_path))
    with pytest.raises(CheckpointError, match="looks like spade, but 1 of its entries"):
        import_checkpoint(save({**state, "up_9.conv_0.bias": torch.zeros(3)}, tmp_path))
    del state["head_0.norm_0.mlp_shared.0.weight"]
    with pytest.raises(CheckpointError, match="looks like spade, but its layout"):
        import_checkpoint(save(state, tmp_path))

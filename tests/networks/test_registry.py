"""Laws that every network obeys. A new network adds one line to TINY and inherits them all."""

import warnings

import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.networks import build, list_discriminators, list_generators

TINY = {
    "pix2pix_unet": {"channels": 4, "num_downs": 3},
    "patchgan": {"channels": 4, "num_layers": 2},
}
VARIANTS = {
    "pix2pix_unet": [
        {},
        {"norm": "instance"},
        {"norm": "group", "attention": True},
        {"upsample": "resize", "num_downs": 6, "channels": 2},
        {"spatial_dims": 3, "attention": True, "upsample": "resize"},
    ],
    "patchgan": [{}, {"norm": "instance"}, {"num_layers": 0}, {"spatial_dims": 3, "norm": "group"}],
}
GENERATORS = [(name, variant) for name in list_generators() for variant in VARIANTS.get(name, [{}])]
DISCRIMINATORS = [(name, variant) for name in list_discriminators() for variant in VARIANTS.get(name, [{}])]
IN_CHANNELS = 2


def make(name: str, variant: dict, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(name, **{"in_channels": IN_CHANNELS, **TINY[name], **variant})


def make_condition(network: torch.nn.Module, variant: dict, multiple: int = 2, batch: int = 2) -> torch.Tensor:
    spatial_dims = variant.get("spatial_dims", 2)
    sizes = [network.stride * (multiple + i % 2) for i in range(spatial_dims)]
    return torch.randn(batch, IN_CHANNELS, *sizes, generator=torch.Generator().manual_seed(1))


def make_image(variant: dict) -> torch.Tensor:
    sizes = (24, 31, 26)[: variant.get("spatial_dims", 2)]
    return torch.randn(2, IN_CHANNELS, *sizes, generator=torch.Generator().manual_seed(1))


def run(network: torch.nn.Module, variant: dict) -> list[torch.Tensor]:
    if hasattr(network, "stride"):
        return [network(make_condition(network, variant))]
    return [tensor for layers in network(make_image(variant)) for tensor in layers]


def test_every_network_has_a_tiny_twin_here():
    assert set(TINY) == {*list_generators(), *list_discriminators()}


@pytest.mark.parametrize(("name", "variant"), GENERATORS)
@pytest.mark.parametrize("multiple", [1, 2])
def test_output_has_the_size_of_the_condition(name, variant, multiple):
    network = make(name, {**variant, "out_channels": 3}).eval()
    condition = make_condition(network, variant, multiple)
    out = network(condition)
    assert out.shape == (2, 3, *condition.shape[2:])
    assert out.abs().max() <= 1


@pytest.mark.parametrize(("name", "variant"), DISCRIMINATORS)
def test_discriminators_return_scales_of_layers_with_one_logit_channel(name, variant):
    out = make(name, variant)(make_image(variant))
    assert isinstance(out, list)
    for layers in out:
        assert isinstance(layers, list)
        assert layers[-1].shape[:2] == (2, 1)
        assert all(tensor.ndim == 2 + variant.get("spatial_dims", 2) for tensor in layers)


@pytest.mark.parametrize(("name", "variant"), GENERATORS + DISCRIMINATORS)
def test_the_same_seed_gives_the_same_network_and_output(name, variant):
    outputs = []
    for seed in (0, 0, 1):
        network = make(name, variant, seed)
        torch.manual_seed(5)
        outputs.append(run(network, variant)[-1])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("name", "variant"), GENERATORS + DISCRIMINATORS)
def test_the_gradient_reaches_every_parameter(name, variant):
    network = make(name, {**variant, "dropout": 0.0} if name in list_generators() else variant)
    # The logits alone must reach everything, whatever else the discriminator returns.
    torch.stack([(tensor * torch.randn_like(tensor)).sum() for tensor in run(network, variant)[-1:]]).sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    # The true gradient of a bias in front of instance norm is 0; every weight has one.
    assert not [key for key, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()]


@pytest.mark.parametrize(("name", "variant"), GENERATORS + DISCRIMINATORS)
def test_a_state_dict_carries_the_whole_network(name, variant):
    network, twin = make(name, variant, 0), make(name, variant, 1)
    run(network, variant)  # move the buffers
    twin.load_state_dict(network.state_dict(), strict=True)
    for a, b in zip(run(network.eval(), variant), run(twin.eval(), variant), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("name", "variant"), GENERATORS + DISCRIMINATORS)
def test_eval_changes_no_buffer_and_not_the_input(name, variant):
    network = make(name, variant).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = make_condition(network, variant) if hasattr(network, "stride") else make_image(variant)
    kept = x.clone()
    network(x)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(x, kept)


@pytest.mark.parametrize(("name", "variant"), GENERATORS + DISCRIMINATORS)
def test_bfloat16_autocast_stays_finite_and_close(name, variant):
    network = make(name, variant).eval()
    with torch.no_grad():
        exact = run(network, variant)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = run(network, variant)
    for a, b in zip(exact, rounded, strict=True):
        assert b.isfinite().all()
        assert float((a - b.float()).abs().max()) <= 0.05 * max(float(a.abs().max()), 1.0)


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize(("name", "variant"), GENERATORS)
def test_torchscript_gives_the_same_output(name, variant, how, tmp_path):
    network = make(name, variant).eval()
    condition = make_condition(network, variant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.jit.script(network) if how == "script" else torch.jit.trace(network, condition)
        torch.jit.save(compiled, tmp_path / "model.ts")
        compiled = torch.jit.load(tmp_path / "model.ts")
    for x in (condition, make_condition(network, variant, multiple=3, batch=1)):
        with torch.no_grad():
            assert float((compiled(x) - network(x)).abs().max()) <= 1e-4


@pytest.mark.parametrize(("name", "variant"), DISCRIMINATORS)
def test_discriminators_can_be_scripted(name, variant):
    network = make(name, variant).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.jit.script(network)
    x = make_image(variant)
    assert float((compiled(x)[0][-1] - network(x)[0][-1]).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", list_generators())
def test_onnx_gives_the_same_output(name, tmp_path):
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    network = make(name, {}).eval()
    condition = make_condition(network, {}, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (condition,), str(tmp_path / "model.onnx"), verbose=False)
    session = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (out,) = session.run(None, {session.input_names[0]: condition.numpy()})
    assert float((torch.from_numpy(out) - network(condition)).abs().max()) <= 1e-4


def test_published_settings_are_the_default_and_arguments_win():
    with torch.device("meta"):
        network = build("pix2pix_unet")
    assert network.stride == 256
    assert network.ups[1].dropout.p == 0.5
    assert build("pix2pix_unet", channels=2, num_downs=2).stride == 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pix2pix", {}, "There is no network 'pix2pix'; choose one of .*pix2pix_unet"),
        ("pix2pix_unet", {"width": 3}, "unexpected keyword argument 'width'.*num_downs"),
        ("patchgan", {}, "missing a required.*'in_channels'"),
    ],
)
def test_errors_name_the_choices(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **arguments)

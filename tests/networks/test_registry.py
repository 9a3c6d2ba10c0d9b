"""Laws that every network obeys. A new network adds its tiny twin to tiny_networks.py and inherits them all."""

import inspect
import warnings

import pytest
import torch

from monai_synth.errors import ConfigError
from monai_synth.inferers import VolumeInferer
from monai_synth.networks import build, list_discriminators, list_generators, list_networks
from monai_synth.networks.registry import count_parameters, describe
from monai_synth.networks.spectral_norm import fold_spectral_norm
from tests.networks.tiny_networks import EXCEPTIONS, TINY, VARIANTS

IN_CHANNELS = 2


def cases(law: str, *kinds: str):
    """Every variant of every network of these kinds to which the law applies."""
    return [
        pytest.param(name, variant, id=f"{name}-{i}")
        for name in list_networks()
        if describe(name).kind in kinds and (name, law) not in EXCEPTIONS
        for i, variant in enumerate(VARIANTS.get(name, [{}]))
    ]


def law(*kinds: str):
    """Parametrize a test over all variants of the networks of these kinds; its name is the law's."""

    def wrap(test):
        return pytest.mark.parametrize(("name", "variant"), cases(test.__name__.removeprefix("test_"), *kinds))(test)

    return wrap


def make(name: str, variant: dict, seed: int = 0) -> torch.nn.Module:
    """The tiny twin, with start values so large that its outputs are far from 0: published ones would hide errors."""
    torch.manual_seed(seed)
    options = {"in_channels": IN_CHANNELS, **TINY[name], **variant}
    if "init_gain" in inspect.signature(describe(name).network).parameters:
        options = {"init_type": "xavier", "init_gain": 1.0, **options}
    return build(name, **options)


def make_condition(network: torch.nn.Module, variant: dict, multiple: int = 2, batch: int = 2) -> torch.Tensor:
    spatial_dims = variant.get("spatial_dims", 2)
    start = -(-getattr(network, "min_size", 1) // network.stride) - 1  # strides that a smallest size takes more
    sizes = [network.stride * (start + multiple + i % 2) for i in range(spatial_dims)]
    return torch.randn(batch, IN_CHANNELS, *sizes, generator=torch.Generator().manual_seed(1))


def make_image(network: torch.nn.Module, variant: dict, batch: int = 2) -> torch.Tensor:
    # A network of fixed size says so; the others take odd sizes.
    sizes = getattr(network, "image_size", (24, 31, 26)[: variant.get("spatial_dims", 2)])
    return torch.randn(batch, IN_CHANNELS, *sizes, generator=torch.Generator().manual_seed(1))


def make_inputs(network: torch.nn.Module, variant: dict, multiple: int = 2, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """What the network's forward takes: an image, or a condition with its noise where there is one."""
    if not hasattr(network, "stride"):
        return (make_image(network, variant, batch),)
    condition = make_condition(network, variant, multiple, batch)
    width = getattr(network, "noise_channels", 0)
    noise = torch.randn(batch, width, generator=torch.Generator().manual_seed(2))
    return (condition, noise) if width else (condition,)


def flat(out) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else [tensor for layers in out for tensor in layers]


def run(network: torch.nn.Module, variant: dict) -> list[torch.Tensor]:
    return flat(network(*make_inputs(network, variant)))


def gap(a, b) -> float:
    """Greatest difference, relative to the spread of each output."""
    gaps = []
    for x, y in zip(flat(a), flat(b), strict=True):
        spread = float(x.detach().float().std()) if x.numel() > 1 else float(x.detach().float().abs().max())
        assert spread > 1e-3, f"an output of {spread:g} everywhere would hide an error"
        gaps.append(float((x.detach().float() - y.detach().float()).abs().max()) / max(spread, 1e-3))
    return max(gaps)


def test_every_network_has_a_tiny_twin():
    assert set(TINY) == set(VARIANTS) == {*list_generators(), *list_discriminators()}
    assert all({} in variants for variants in VARIANTS.values())
    assert {name for name, _ in EXCEPTIONS} <= set(TINY)


@pytest.mark.parametrize("multiple", [1, 2])
@law("generator")
def test_output_has_the_size_of_the_condition(name, variant, multiple):
    network = make(name, {**variant, "out_channels": 3}).eval()
    condition = make_condition(network, variant, multiple)
    out = network(condition)
    assert out.shape == (2, 3, *condition.shape[2:])
    assert out.abs().max() <= 1


@law("generator")
def test_volumes_of_odd_size_keep_it_through_the_inferer(name, variant):
    spatial_dims = variant.get("spatial_dims", 2)
    network = make(name, {**variant, "out_channels": 1}).eval()
    size = (network.stride + 3, 2 * network.stride - 1, 3)[:spatial_dims]
    volume = torch.randn(1, IN_CHANNELS, *((*size, 3) if spatial_dims == 2 else size))
    inferer = VolumeInferer(axis=2 if spatial_dims == 2 else None, batch_size=2)
    with torch.no_grad():
        assert inferer(volume, network).shape == (1, 1, *volume.shape[2:])


@law("generator")
def test_noise_is_drawn_where_none_is_given(name, variant):
    network = make(name, {"dropout": 0.0, **variant} if name == "pix2pix_unet" else variant).eval()
    condition = make_condition(network, variant)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(network(condition))
    assert torch.equal(outputs[0], outputs[1])
    # A generator without noise gives one image per condition.
    assert torch.equal(outputs[0], outputs[2]) == (getattr(network, "noise_channels", 0) == 0)


@law("discriminator")
def test_discriminators_return_scales_of_layers(name, variant):
    network = make(name, variant)
    out = network(make_image(network, variant))
    assert isinstance(out, list)
    for layers in out:
        assert isinstance(layers, list)
        assert all(tensor.shape[0] == 2 for tensor in layers)


@law("discriminator")
def test_logits_have_one_channel(name, variant):
    network = make(name, variant)
    assert all(layers[-1].shape[1] == 1 for layers in network(make_image(network, variant)))


@law("generator", "discriminator")
def test_the_same_seed_gives_the_same_network_and_output(name, variant):
    outputs = []
    for seed in (0, 0, 1):
        network = make(name, variant, seed)
        torch.manual_seed(5)
        outputs.append(run(network, variant)[-1])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@law("generator", "discriminator")
def test_the_gradient_reaches_every_parameter(name, variant):
    network = make(name, {**variant, "dropout": 0.0} if "dropout" in describe(name).published else variant)
    # The logits alone must reach everything, whatever else the discriminator returns.
    out = network(*make_inputs(network, variant))
    last = [out] if isinstance(out, torch.Tensor) else [layers[-1] for layers in out]
    torch.stack([(tensor * torch.randn_like(tensor)).sum() for tensor in last]).sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    # The true gradient of a bias in front of instance norm is 0; every weight has one.
    assert not [key for key, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()]


@law("generator", "discriminator")
def test_a_state_dict_carries_the_whole_network(name, variant):
    network, twin = make(name, variant, 0), make(name, variant, 1)
    run(network, variant)  # move the buffers
    twin.load_state_dict(network.state_dict(), strict=True)
    for a, b in zip(run(network.eval(), variant), run(twin.eval(), variant), strict=True):
        assert torch.equal(a, b)


@law("generator", "discriminator")
def test_eval_changes_no_buffer_and_not_the_input(name, variant):
    network = make(name, variant).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    inputs = make_inputs(network, variant)
    kept = [x.clone() for x in inputs]
    network(*inputs)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))


@law("generator", "discriminator")
def test_bfloat16_autocast_stays_finite_and_close(name, variant):
    network = make(name, variant).eval()
    with torch.no_grad():
        exact = run(network, variant)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = run(network, variant)
    assert all(b.isfinite().all() for b in rounded)
    # Rounding to 8 bits in every layer: the correlation stays, single values may be off.
    for a, b in zip(exact, rounded, strict=True):
        if a.numel() > 8:
            assert float(torch.corrcoef(torch.stack([a.flatten(), b.float().flatten()]))[0, 1]) > 0.99


@law("generator", "discriminator")
def test_two_batches_of_one_are_one_batch_of_two(name, variant):
    network = make(name, variant)
    # In eval mode the images of a batch never meet; in training they do only in batch norm and dropout.
    meets = variant.get("norm", describe(name).published.get("norm")) == "batch" or "attention" in variant
    with torch.no_grad():
        for is_training in (False,) if meets else (False, True):
            network.train(is_training)
            twin = make(name, variant)
            twin.load_state_dict(network.state_dict())
            inputs = make_inputs(network, variant)
            together = flat(network(*inputs))
            for i in range(2):
                # Power iterations move with every training forward: each half starts from the same state.
                twin = make(name, variant).train(is_training)
                alone = flat(twin(*(x[i : i + 1] for x in inputs)))
                assert all(gap(a[i : i + 1], b) <= 1e-4 for a, b in zip(together, alone, strict=True))


@law("generator", "discriminator")
def test_channels_last_is_the_same_function(name, variant):
    network, twin = make(name, variant).eval(), make(name, {**variant, "channels_last": True}).eval()
    twin.load_state_dict(network.state_dict())
    for p in twin.parameters():
        if p.ndim > 3:
            assert p.is_contiguous(memory_format=torch.channels_last if p.ndim == 4 else torch.channels_last_3d)
    inputs = make_inputs(network, variant)
    with torch.no_grad():
        assert gap(network(*inputs), twin(*inputs)) <= 1e-4


@law("generator", "discriminator")
def test_activation_checkpointing_changes_neither_gradients_nor_buffers(name, variant):
    if not hasattr(make(name, variant), "activation_checkpointing"):
        pytest.skip(f"{name} keeps its activations: it has no option to compute them again")
    networks = [make(name, {**variant, "activation_checkpointing": value}) for value in (False, True)]
    for network in networks:
        torch.manual_seed(7)  # for dropout
        torch.stack([(tensor**2).mean() for tensor in run(network, variant)]).sum().backward()
    plain, checkpointed = networks
    for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-6)
    for a, b in zip(plain.buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(a, b)


@law("generator", "discriminator")
def test_folding_spectral_norm_keeps_the_output(name, variant):
    network = make(name, variant).eval()
    folded = fold_spectral_norm(network)
    assert not any("parametrizations" in key for key in folded.state_dict())
    assert gap(run(network, variant), run(folded, variant)) <= 1e-5


@law("generator", "discriminator")
def test_torchscript_gives_the_same_output(name, variant, tmp_path):
    # A parametrized layer cannot be scripted: its weight is computed by Python.
    network = fold_spectral_norm(make(name, variant).eval())
    check_compiled(network, torch.jit.script, variant, tmp_path)


@law("generator")
def test_a_trace_gives_the_same_output_at_any_size(name, variant, tmp_path):
    network = make(name, variant).eval()
    check_compiled(network, lambda network: torch.jit.trace(network, make_inputs(network, variant)), variant, tmp_path)


def check_compiled(network, compile_network, variant, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(compile_network(network), folder / "model.ts")
        compiled = torch.jit.load(folder / "model.ts")
    for multiple, batch in ((2, 2), (3, 1)):
        inputs = make_inputs(network, variant, multiple, batch)
        with torch.no_grad():
            assert gap(compiled(*inputs), network(*inputs)) <= 1e-4


@law("generator")
def test_onnx_gives_the_same_output(name, variant, tmp_path):
    if variant:
        pytest.skip("exported in its published form")
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    network = fold_spectral_norm(make(name, variant).eval())
    inputs = make_inputs(network, variant, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, str(tmp_path / "model.onnx"), verbose=False)
    session = reference.ReferenceEvaluator(str(tmp_path / "model.onnx"))
    (out,) = session.run(None, {key: x.numpy() for key, x in zip(session.input_names, inputs, strict=True)})
    assert float((torch.from_numpy(out) - network(*inputs)).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", list_networks())
def test_entries_describe_themselves(name):
    entry = describe(name)
    assert entry.kind in ("generator", "discriminator", "encoder", "segmenter")
    assert entry.summary
    assert entry.paper
    assert count_parameters(name) > 1000


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
        ("patchgan", {"in_channels": "2"}, "cannot be built with in_channels='2'.*monai-synth networks patchgan"),
        ("resnet", {"channels": -4}, "channels=-4 leaves nothing to compute with"),
        ("spade_vae", {"in_channels": 2, "latent_size": 4}, "cannot be built with in_channels=2, latent_size=4"),
    ],
)
def test_errors_name_the_choices(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **arguments)

"""The pretrained networks are replaced by tiny ones in a folder of the same layout; no internet is used."""

import pytest
import torch
from torch import nn

from monai_synth.errors import ConfigError, GeometryError
from monai_synth.losses import PerceptualLoss

HUBCONF = """
dependencies = ["torch"]

import torch
from torch import nn

def radimagenet_resnet50(cache_dir=None):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
    net.load_state_dict(torch.load(cache_dir + "/RadImageNet-ResNet50_notop.pth", weights_only=True))
    return net

def medicalnet_resnet10_23datasets(cache_dir=None):
    net = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2), nn.BatchNorm3d(4))
    file = cache_dir + "/monai_checkpoints/medicalnet_resnet_10_23dataset.pth"
    net.load_state_dict(torch.load(file, weights_only=True))
    return net
"""


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    code = folder / "Project-MONAI_perceptual-models_main"
    for name in ("radimagenet", "medicalnet"):
        (code / name).mkdir(parents=True)
        (code / name / "resnet.py").touch()
    (code / "hubconf.py").write_text(HUBCONF)
    (folder / "monai_checkpoints").mkdir()
    torch.manual_seed(0)
    net2d = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
    net3d = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2), nn.BatchNorm3d(4))
    torch.save(net2d.state_dict(), folder / "RadImageNet-ResNet50_notop.pth")
    torch.save(net3d.state_dict(), folder / "monai_checkpoints" / "medicalnet_resnet_10_23dataset.pth")
    return folder


@pytest.fixture(autouse=True)
def no_internet(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("tried to use the internet")

    monkeypatch.setattr("socket.socket.connect", refuse)


def images(spatial_dims: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    size = (2, channels, *[17] * spatial_dims)
    generator = torch.Generator().manual_seed(3)
    return torch.rand(size, generator=generator) * 2 - 1, torch.rand(size, generator=generator) * 2 - 1


@pytest.mark.parametrize(("spatial_dims", "channels"), [(2, 1), (2, 3), (3, 1), (3, 2)])
def test_is_zero_for_equal_images_and_differentiable_otherwise(weights_dir, spatial_dims, channels):
    loss = PerceptualLoss(spatial_dims=spatial_dims, weights_dir=weights_dir)
    logits, target = images(spatial_dims, channels)
    prediction = torch.tanh(logits.requires_grad_())
    kept = prediction.detach().clone()
    assert loss(target, target).item() == pytest.approx(0, abs=1e-6)
    value = loss(prediction, target)
    assert value.shape == ()
    assert value.item() > 1e-3
    value.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() > 0
    assert torch.equal(prediction, kept)


def test_the_pretrained_network_stays_frozen_and_in_eval_mode(weights_dir):
    loss = PerceptualLoss(spatial_dims=2, weights_dir=weights_dir)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    nn.ModuleList([loss]).train()
    loss(*images(2))
    assert not any(module.training for module in loss.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert before
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())


class Recorder(nn.Module):
    def forward(self, a, b):
        self.seen = (a, b)
        return (a - b).abs().mean()


def test_maps_the_range_to_zero_one_in_float32(weights_dir):
    loss = PerceptualLoss(spatial_dims=2, weights_dir=weights_dir)
    loss.distance = recorder = Recorder()
    a = torch.tensor([-1.0, 0.0, 0.5, 1.0]).reshape(1, 1, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(a.bfloat16(), -a)
    assert torch.equal(recorder.seen[0].flatten(), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    assert torch.equal(recorder.seen[1].flatten(), torch.tensor([1.0, 0.5, 0.25, 0.0]))
    assert recorder.seen[0].dtype == recorder.seen[1].dtype == torch.float32


def test_a_constant_volume_gives_zero_and_not_nan(weights_dir):
    loss = PerceptualLoss(spatial_dims=3, weights_dir=weights_dir)
    prediction, _ = images(3)
    prediction.requires_grad_()
    value = loss(prediction, torch.full_like(prediction, -1.0))
    value.backward()
    assert value.item() == 0
    assert not prediction.grad.any()


def test_the_folder_of_torch_hub_is_left_as_it_was(weights_dir):
    before = torch.hub.get_dir()
    PerceptualLoss(spatial_dims=2, weights_dir=weights_dir)
    assert torch.hub.get_dir() == before


@pytest.mark.parametrize(
    ("spatial_dims", "weights"),
    [(2, "RadImageNet-ResNet50_notop.pth"), (3, "monai_checkpoints/medicalnet_resnet_10_23dataset.pth")],
)
def test_missing_files_are_named_and_never_downloaded(tmp_path, spatial_dims, weights):
    with pytest.raises(ConfigError) as error:
        PerceptualLoss(spatial_dims=spatial_dims, weights_dir=tmp_path)
    for part in (weights, "Project-MONAI_perceptual-models_main/hubconf.py", str(tmp_path), "Nothing is downloaded"):
        assert part in str(error.value)


def test_options_and_shapes_that_do_not_fit_are_refused(weights_dir):
    with pytest.raises(ConfigError, match="does not fit spatial_dims=2"):
        PerceptualLoss(spatial_dims=2, weights_dir=weights_dir, network="medicalnet_resnet10_23datasets")
    with pytest.raises(ConfigError, match="spatial_dims=1"):
        PerceptualLoss(spatial_dims=1, weights_dir=weights_dir)
    loss = PerceptualLoss(spatial_dims=2, weights_dir=weights_dir)
    with pytest.raises(GeometryError, match="1 or 3 channels, got 2"):
        loss(*images(2, 2))
    with pytest.raises(GeometryError, match="2 spatial dimensions"):
        loss(*images(3))

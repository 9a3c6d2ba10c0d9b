from typing import Any

import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, Orientationd
from torch import Tensor, nn

from monai_synth.data.slices import SliceDataset
from monai_synth.errors import ConfigError, GeometryError
from monai_synth.inferers import VolumeInferer


class Doubles(nn.Module):
    """Returns twice the input; demands its stride; records the shapes that it saw."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        assert all(length % self.stride == 0 for length in condition.shape[2:])
        self.shapes.append(tuple(condition.shape))
        return 2 * condition


def volume(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 1, 13, 9, 5), (2, 3, 3, 17, 4), (1, 2, 1, 7, 6), (1, 2, 7, 1, 6), (1, 1, 6, 7, 1)]
)
def test_planes_come_back_in_place(axis: int, shape: tuple[int, ...]) -> None:
    network = Doubles(stride=8)
    inputs = volume(*shape)

    assert torch.equal(VolumeInferer(axis=axis, batch_size=3)(inputs, network), 2 * inputs)
    assert sum(seen[0] for seen in network.shapes) == shape[0] * shape[2 + axis]
    assert max(seen[0] for seen in network.shapes) <= 3


@pytest.mark.parametrize("shape", [(1, 1, 13, 9, 5), (2, 3, 1, 7, 6), (1, 1, 13, 9), (2, 3, 1, 1)])
@pytest.mark.parametrize("padding", ["replicate", "constant"])
def test_whole_inputs_of_any_size(shape: tuple[int, ...], padding: Any) -> None:
    inputs = volume(*shape)
    network = Doubles(stride=16)

    assert torch.equal(VolumeInferer(axis=None, padding=padding)(inputs, network), 2 * inputs)
    assert len(network.shapes) == 1


def test_nothing_is_padded_that_fits() -> None:
    network = Doubles(stride=4)
    VolumeInferer(axis=2)(volume(1, 1, 8, 12, 2), network)

    assert network.shapes == [(2, 1, 8, 12)]


def test_replicate_repeats_the_last_voxel_over_more_than_the_size() -> None:
    seen = []

    def network(plane: Tensor) -> Tensor:
        seen.append(plane)
        return plane

    inputs = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 2, 1, 1)
    VolumeInferer(axis=2, stride=8)(inputs, network)
    assert seen[0][0, 0, :, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    VolumeInferer(axis=2, stride=8, padding="constant", padding_value=-1)(inputs, network)
    assert seen[1][0, 0, :, 4].tolist() == [-1, -1, -1, -1, -1, -1, -1, -1]
    assert seen[1][0, 0, :, 3].tolist() == [-1, -1, -1, 1, 2, -1, -1, -1]


def test_stride_is_found_behind_a_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    inner = Doubles(stride=8)
    VolumeInferer(stride=1)(volume(1, 1, 5, 9, 2), Wrapper(inner))

    assert inner.shapes == [(2, 1, 8, 16)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("num_neighbours", [1, 2])
def test_neighbours_are_those_of_the_slice_dataset(axis: int, num_neighbours: int) -> None:
    inputs = volume(2, 2, 5, 4, 3)
    seen: list[Tensor] = []

    def network(plane: Tensor) -> Tensor:
        seen.extend(plane)
        return plane[:, :1]

    VolumeInferer(axis=axis, num_neighbours=num_neighbours, batch_size=2)(inputs, network)
    data = [{"case_id": str(k), "patient_id": str(k), "condition": inputs[k]} for k in range(2)]
    dataset = SliceDataset(
        data, dict, keys=("condition",), axis=axis, num_neighbours=num_neighbours, foreground_key=None
    )

    assert len(seen) == len(dataset)
    assert all(torch.equal(a, item["condition"]) for a, item in zip(seen, dataset, strict=True))


def test_metadata_survives_another_number_of_channels() -> None:
    affine = torch.tensor([[-1.0, 0, 0, 5], [0, -2, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1]])
    image = MetaTensor(volume(4, 5, 3), affine=affine)
    before = Compose(
        [EnsureChannelFirstd("condition", channel_dim="no_channel"), Orientationd("condition", axcodes="RAS")]
    )
    case = before({"condition": image})
    batch = MetaTensor(case["condition"][None])
    batch.is_batch = True

    pred = VolumeInferer()(batch, lambda x: torch.cat([x, -x], dim=1))

    assert isinstance(pred, MetaTensor)
    assert pred.shape == (1, 2, 4, 5, 3)
    assert torch.equal(pred.affine, batch.affine)
    item = {"condition": case["condition"], "pred": decollate_batch(pred)[0]}
    native = Invertd("pred", before, orig_keys="condition", nearest_interp=False)(item)["pred"]
    torch.testing.assert_close(native[0].as_tensor(), image.as_tensor())
    assert isinstance(native, MetaTensor)
    torch.testing.assert_close(native.affine.float(), affine)


def test_arguments_are_cut_with_the_volume() -> None:
    inputs = volume(2, 1, 3, 5, 4)
    noise, grid = volume(2, 6), volume(2, 2, 3, 5, 4)
    seen: list[tuple[Tensor, Tensor, str]] = []

    class Network(nn.Module):
        stride = 4

        def forward(self, x: Tensor, noise: Tensor, *, grid: Tensor, mode: str) -> Tensor:
            assert grid.shape[2:] == x.shape[2:]
            seen.append((noise, grid, mode))
            return x + grid[:, :1]

    out = VolumeInferer(batch_size=3)(inputs, Network(), noise, grid=grid, mode="a")

    assert torch.equal(out, inputs + grid[:, :1])
    assert torch.equal(torch.cat([n for n, _, _ in seen]), noise.repeat_interleave(4, dim=0))
    assert {mode for _, _, mode in seen} == {"a"}


def test_gradient_passes() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    VolumeInferer(batch_size=2)(volume(1, 1, 4, 4, 3), layer).sum().backward()

    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_result_does_not_depend_on_the_batch_size() -> None:
    layer = nn.Conv2d(3, 2, 3, padding=1)
    inputs = volume(2, 1, 6, 5, 7)
    with torch.no_grad():
        one, many = (VolumeInferer(num_neighbours=1, batch_size=size)(inputs, layer) for size in (1, 64))

    torch.testing.assert_close(one, many)


def test_a_network_that_changes_the_size_is_named() -> None:
    with pytest.raises(GeometryError, match=r"returned \(2, 1, 4, 4\).*stride in use is 1"):
        VolumeInferer()(volume(1, 1, 8, 8, 2), nn.MaxPool2d(2, stride=2, return_indices=False).__call__)


def test_a_plane_is_no_volume() -> None:
    with pytest.raises(GeometryError, match=r"\(1, 1, 8, 8\)"):
        VolumeInferer(axis=2)(volume(1, 1, 8, 8), Doubles())


@pytest.mark.parametrize(
    "options",
    [{"axis": 3}, {"batch_size": 0}, {"stride": 0}, {"axis": None, "num_neighbours": 1}, {"padding": "reflect"}],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        VolumeInferer(**options)


class _Noisy(torch.nn.Module):
    """Its image is its noise."""

    stride, noise_channels = 1, 1

    def forward(self, condition: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        noise = torch.randn(len(condition), 1) if noise is None else noise
        return noise[..., None, None].expand(-1, 1, *condition.shape[2:])


def test_all_slices_of_a_volume_share_one_noise_vector():
    out = VolumeInferer(axis=2, batch_size=2)(torch.zeros(2, 1, 3, 4, 5), _Noisy())
    assert out.shape == (2, 1, 3, 4, 5)
    for volume in out:
        assert volume.max() == volume.min()
    assert float(out[0].mean()) != float(out[1].mean())


def test_noise_of_another_number_of_volumes_is_refused():
    with pytest.raises(GeometryError, match="there are 1 volumes"):
        VolumeInferer(axis=2, batch_size=2)(torch.zeros(1, 1, 3, 4, 5), _Noisy(), noise=torch.zeros(2, 1))


def test_a_network_of_a_smallest_size_gets_it():
    class Picky(torch.nn.Module):
        stride, min_size = 4, 16

        def forward(self, condition: torch.Tensor) -> torch.Tensor:
            assert min(condition.shape[2:]) >= 16
            assert all(length % 4 == 0 for length in condition.shape[2:])
            return condition

    volume = torch.randn(1, 1, 5, 19, 2)
    assert torch.equal(VolumeInferer(axis=2)(volume, Picky()), volume)
    assert torch.equal(VolumeInferer(axis=None)(volume, Picky()), volume)

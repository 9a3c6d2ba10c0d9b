"""Pictures of the validation cases."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, Flipd, Invertd, Lambdad
from torch import nn

from monai_synth.engines import SynthesisEvaluator
from monai_synth.handlers import Preview
from monai_synth.handlers.preview_planes import (
    LABEL_COLOURS,
    condition_picture,
    image_picture,
    is_label_map,
    middle_fraction,
    shorten,
    take_plane,
)
from monai_synth.inferers import VolumeInferer


class _Noisy(nn.Module):
    """Adds a random number to everything."""

    def __init__(self, noise_channels: int) -> None:
        super().__init__()
        self.noise_channels = noise_channels

    def forward(self, condition: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        return condition[:, :1] + (0.0 if noise is None else noise.sum(dim=1).reshape(-1, 1, 1, 1))


def _evaluator(network: nn.Module, handlers: list[Any], *, num_cases: int = 2) -> Any:
    preprocessing = Compose([Flipd("condition", spatial_axis=0)])
    affine = torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0]))
    cases = []
    for number in range(num_cases):
        volume = torch.arange(4 * 5 * 6).reshape(1, 4, 5, 6) / 100.0 + number
        case = {"condition": MetaTensor(volume, affine=affine), "target": MetaTensor(volume * 10, affine=affine)}
        cases.append({**preprocessing(case), "case_id": f"case{number}"})
    postprocessing = Compose(
        [
            Lambdad("pred", lambda x: x * 10),
            Invertd("pred", transform=preprocessing, orig_keys="condition", nearest_interp=False),
        ]
    )
    return SynthesisEvaluator(
        device="cpu",
        val_data_loader=torch.utils.data.DataLoader(cases, batch_size=1, collate_fn=list_data_collate),
        network=network,
        inferer=VolumeInferer(axis=2),
        postprocessing=postprocessing,
        val_handlers=handlers,
    )


class _Recorded(Preview):
    """Keeps what it draws."""

    def _draw(self, engine: Any) -> None:
        self.drawn = [list(row) for row in self._rows]
        super()._draw(engine)


def test_without_noise_prediction_and_error_are_shown(tmp_path: Path) -> None:
    preview = _Recorded(tmp_path / "previews")
    _evaluator(_Noisy(0), [preview]).run()
    titles = [title for title, *_ in preview.drawn[0]]
    assert titles == ["case0: condition", "target, -200 to 400 HU", "prediction, same window", "error, ±300 HU"]
    assert matplotlib.image.imread(tmp_path / "previews" / "epoch_0001.png").ndim == 3
    # The network is the identity up to the factor 10, so the prediction is back on the grid of the target.
    for row in preview.drawn:
        np.testing.assert_allclose(row[3][1], 0, atol=1e-5)


def test_a_generator_that_takes_noise_is_shown_with_several_noises(tmp_path: Path) -> None:
    preview = _Recorded(tmp_path, num_samples=3)
    evaluator = _evaluator(_Noisy(4), [preview])
    torch.manual_seed(0)
    evaluator.run()
    drawn = torch.rand(1)
    for row in preview.drawn:
        assert [title for title, *_ in row][2:] == [f"prediction {k}, same window" for k in (1, 2, 3)]
        # All in physical units and on the same grid; their difference is the noise, ten times.
        shifts = [picture - row[1][1] for _, picture, _ in row[2:]]
        assert all(np.ptp(shift) < 1e-4 for shift in shifts)
        assert len({round(float(shift.mean()), 3) for shift in shifts}) == 3

    # Drawing more of them takes nothing from the random numbers of the training.
    torch.manual_seed(0)
    _evaluator(_Noisy(4), []).run()
    assert torch.equal(drawn, torch.rand(1))


def test_one_sample_is_shown_with_its_error(tmp_path: Path) -> None:
    preview = _Recorded(tmp_path, num_samples=1)
    _evaluator(_Noisy(4), [preview]).run()
    assert preview.drawn[0][3][0].startswith("error")


def test_pictures_go_to_tensorboard_too(tmp_path: Path) -> None:
    shown: list[Any] = []

    class Writer:
        def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str) -> None:
            shown.append((tag, image.shape[2], image.dtype, step, dataformats))

    _evaluator(_Noisy(0), [Preview(tmp_path, summary_writer=Writer())]).run()
    assert shown == [("preview", 3, np.uint8, 1, "HWC")]


def _one_hot(ids: torch.Tensor, num_classes: int) -> torch.Tensor:
    return (ids == torch.arange(num_classes).reshape(-1, *[1] * (ids.ndim - 1))).float()


def test_label_maps_are_shown_in_colours() -> None:
    ids = torch.randint(0, 4, (1, 6, 7, 5))
    one_hot = _one_hot(ids, 4)
    one_hot[:, 0, 0] = 0  # no class
    plane, style = condition_picture({"condition": one_hot}, 0.5)
    expected = ids[0, ..., 2].numpy().copy()
    expected[0, 0] = -1
    np.testing.assert_array_equal(plane, expected)
    assert style["cmap"] is LABEL_COLOURS
    assert LABEL_COLOURS(0) == (0, 0, 0, 1)
    assert len({LABEL_COLOURS(index) for index in range(21)}) == 21

    # The label map itself, where the case still has it on its native grid; ids beyond the colours begin anew.
    native = torch.tensor([0.0, 1, 20, 21, 255]).reshape(1, 5, 1, 1)
    plane, _ = condition_picture({"condition": one_hot, "native_condition": native}, 0.5)
    assert plane.ravel().tolist() == [0, 1, 20, 1, 15]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (torch.rand(3, 4, 4, 4), False),  # neighbours
        (torch.ones(1, 4, 4, 4), False),
        (_one_hot(torch.randint(0, 3, (1, 4, 4)), 3), True),  # 2D
        (torch.cat([_one_hot(torch.randint(0, 3, (1, 4, 4, 4)), 3), torch.ones(1, 4, 4, 4)]), True),  # with edges
    ],
)
def test_what_counts_as_label_map(condition: torch.Tensor, expected: bool) -> None:
    assert is_label_map(condition) is expected


def test_the_plane_is_that_of_the_middle_of_the_mask_on_any_grid() -> None:
    mask = torch.zeros(1, 3, 3, 11)
    mask[..., 7:10] = 1
    fraction = middle_fraction({"mask": mask})
    assert fraction == pytest.approx(0.8)
    volume = torch.arange(21.0).expand(1, 3, 3, 21)
    assert np.unique(take_plane(volume, fraction)) == 16
    assert middle_fraction({"mask": mask * 0}) == middle_fraction({}) == 0.5
    image = torch.rand(2, 3, 4)
    np.testing.assert_array_equal(take_plane(image, fraction), image)


def test_images_of_three_channels_are_colours() -> None:
    picture, style = image_picture(np.full((3, 4, 5), 100.0), (-200, 400))
    assert picture.shape == (4, 5, 3)
    assert np.unique(picture) == 0.5
    assert style == {}


def _draw_pictures(folder: Path, *, is_paired: bool, num_channels: int = 3, first_case: str = "case0") -> _Recorded:
    """Previews of two pictures 5 wide and 4 high, bright on the upper left."""
    cases = []
    for number in range(2):
        target = torch.full((num_channels, 5, 4), 20.0)
        target[:, :2, :1] = 250
        item = {"condition": target / 127.5 - 1, "case_id": ("case1", first_case)[number == 0]}
        cases.append(item | ({"target": target} if is_paired else {}))
    preview = _Recorded(folder, window=(0, 255), error_limit=100, unit="grey levels")
    SynthesisEvaluator(
        device="cpu",
        val_data_loader=torch.utils.data.DataLoader(cases, batch_size=1, collate_fn=list_data_collate),
        network=nn.Identity(),
        inferer=VolumeInferer(axis=None),
        postprocessing=Lambdad("pred", lambda x: (x + 1) * 127.5),
        val_handlers=[preview],
    ).run()
    return preview


@pytest.mark.parametrize("num_channels", [1, 3])
def test_pictures_are_shown_upright(tmp_path: Path, num_channels: int) -> None:
    row = _draw_pictures(tmp_path, is_paired=True, num_channels=num_channels).drawn[0]
    assert [title for title, *_ in row] == [
        "case0: condition",
        "target, 0 to 255 grey levels",
        "prediction, same window",
        "error, ±100 grey levels",
    ]
    for _, plane, _ in row[:3]:
        assert plane.shape == ((4, 5) if num_channels == 1 else (4, 5, 3))
        bright = plane > plane.mean()
        assert bright[0, :2].all()
        assert bright.sum() == 2 * num_channels
    np.testing.assert_allclose(row[3][1], 0, atol=1e-3)


def test_names_that_would_reach_into_the_next_title_lose_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shorten("TCGA_CS_4942_19970222_1") == "TCGA_CS_4942_19970222_1"
    assert shorten("TCGA_CS_4942_19970222_10b") == "TCGA_CS_494…19970222_10b"
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    _draw_pictures(tmp_path, is_paired=True, first_case="0" * 64)
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    titles = [axis.title.get_window_extent(canvas.get_renderer()) for axis in figure.axes[:4]]
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))


def test_without_a_target_condition_and_prediction_are_shown(tmp_path: Path) -> None:
    preview = _draw_pictures(tmp_path, is_paired=False)
    for row in preview.drawn:
        assert [title.partition(": ")[2] or title for title, *_ in row] == [
            "condition",
            "prediction, 0 to 255 grey levels",
        ]
    assert (tmp_path / "epoch_0001.png").is_file()

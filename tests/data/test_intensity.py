import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_synth.data.intensity import Intensity, Percentiles, Window, ZScore, from_dict, to_dict
from monai_synth.errors import ConfigError, GeometryError, IntensityError

bounds = st.tuples(st.floats(-5000, 5000), st.floats(0.5, 10000)).map(lambda pair: (pair[0], pair[0] + pair[1]))
values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


@given(bounds=bounds, values=values, is_tensor=st.booleans())
def test_there_and_back_is_clip(bounds: tuple[float, float], values: list[float], is_tensor: bool) -> None:
    window = Window(*bounds)
    x = torch.tensor(values) if is_tensor else np.array(values, dtype=np.float32)
    y = window.to_network(x)
    back = np.asarray(window.to_physical(y))

    rounding = 2e-7 * max(abs(window.low), abs(window.high), window.high - window.low)
    np.testing.assert_allclose(back, np.clip(np.array(values), *bounds), atol=rounding, rtol=0)
    np.testing.assert_allclose(back, np.asarray(window.clip(x)), atol=rounding, rtol=0)
    assert float(y.min()) >= -1
    assert float(y.max()) <= 1


@given(bounds=bounds, values=st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=20))
def test_order_is_kept(bounds: tuple[float, float], values: list[float]) -> None:
    physical = Window(*bounds).to_physical(np.sort(np.array(values, dtype=np.float32)))

    assert np.all(np.diff(physical) >= 0)
    assert physical.min() >= np.float32(bounds[0])
    assert physical.max() <= np.float32(bounds[1])


@pytest.mark.parametrize(
    "dtype", [torch.int16, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_result_is_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    window = Window(0, 200)
    x = torch.tensor([0, 50, 100, 200]).to(dtype)

    assert window.to_network(x).dtype == torch.float32
    assert window.to_network(x).tolist() == [-1.0, -0.5, 0.0, 1.0]
    assert window.to_physical(window.to_network(x)).tolist() == [0.0, 50.0, 100.0, 200.0]
    if dtype is not torch.bfloat16:
        assert window.to_network(x.numpy()).dtype == np.float32


def test_hu_of_common_windows_are_exact_integers_after_rounding() -> None:
    window = Window(-1024, 3071)
    hu = np.arange(-1024, 3072, dtype=np.int16)

    np.testing.assert_array_equal(np.rint(window.to_physical(window.to_network(hu))), hu)


def test_metadata_stays() -> None:
    image = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])), meta={"name": "ct"})
    back = Window(0, 1).to_physical(Window(0, 1).to_network(image))

    assert isinstance(back, MetaTensor)
    assert back.meta["name"] == "ct"
    assert torch.equal(back.affine, image.affine)


def test_gradient_passes_to_physical_units() -> None:
    y = torch.zeros(3, requires_grad=True)
    Window(-1000, 1000).to_physical(y).sum().backward()

    assert y.grad is not None
    assert y.grad.tolist() == [1000.0] * 3


def test_percentiles_are_those_of_the_mask_only() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, (1, 12, 13, 7)).astype(np.float32)
    mask = np.zeros_like(image)
    mask[:, 2:9, 3:10] = 1
    image[mask == 0] = 1e6

    window = Percentiles(1, 99).fit(torch.from_numpy(image), torch.from_numpy(mask))
    low, high = np.percentile(image[mask > 0], [1, 99])

    assert window == Window(low, high, "a.u.")
    assert Percentiles(1, 99).fit(image).high == pytest.approx(1e6)


def test_zscore_makes_three_standard_deviations_one() -> None:
    image = np.random.default_rng(1).normal(50, 5, 4000).astype(np.float32)
    window = ZScore(3).fit(image)
    z = (image.astype(float) - image.mean()) / image.std()

    np.testing.assert_allclose(window.to_network(image), np.clip(z / 3, -1, 1), atol=1e-5)


def test_fitting_is_unaffected_by_the_integer_type() -> None:
    image = np.random.default_rng(2).integers(-32000, 32000, 1000).astype(np.int16)

    assert ZScore(1).fit(image) == ZScore(1).fit(image.astype(np.float64))


def test_one_mask_serves_several_channels() -> None:
    image = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 5.0)])
    mask = torch.ones(1, 4, 4)

    assert Percentiles(0, 100).fit(image, mask) == Window(1, 5, "a.u.")


def test_a_window_needs_no_fitting() -> None:
    window = Window(-1024, 2000)

    assert window.fit(np.zeros(3), np.zeros(3)) is window


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf"))])
def test_a_window_has_a_width(low: float, high: float) -> None:
    with pytest.raises(IntensityError, match="low must be below high"):
        Window(low, high)


@pytest.mark.parametrize(("lower", "upper"), [(99, 1), (-1, 99), (1, 101), (5, 5)])
def test_percentiles_are_in_order(lower: float, upper: float) -> None:
    with pytest.raises(IntensityError, match="lower < upper"):
        Percentiles(lower, upper)


def test_zscore_is_positive() -> None:
    with pytest.raises(IntensityError, match="positive"):
        ZScore(0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("is_tensor", [True, False])
def test_non_finite_values_are_counted(broken: float, is_tensor: bool) -> None:
    image = np.ones((2, 5), dtype=np.float32)
    image[0, :3] = broken
    x = torch.from_numpy(image) if is_tensor else image

    with pytest.raises(IntensityError, match="3 of 10"):
        Window(0, 1).to_network(x)
    with pytest.raises(IntensityError, match="3 of 10"):
        Percentiles().fit(x)


def test_non_finite_values_outside_the_mask_do_not_matter_for_fitting() -> None:
    image = np.array([1.0, 2.0, 3.0, np.nan])

    assert Percentiles(0, 100).fit(image, np.array([1, 1, 1, 0])) == Window(1, 3, "a.u.")


@pytest.mark.parametrize("intensity", [Percentiles(), ZScore()])
def test_empty_mask_and_constant_image_are_refused(intensity: Percentiles | ZScore) -> None:
    image = np.ones((1, 4, 4))

    with pytest.raises(IntensityError, match="mask is empty"):
        intensity.fit(image, np.zeros((1, 4, 4)))
    with pytest.raises(IntensityError, match="constant"):
        intensity.fit(image)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(1, 4, 5\).*\(1, 4, 4\)"):
        ZScore().fit(np.ones((1, 4, 4)), np.ones((1, 4, 5)))


@pytest.mark.parametrize("intensity", [Window(-1024, 2000), Window(0, 1, "a.u."), Percentiles(1, 98), ZScore(4, "SUV")])
def test_description_survives_json(intensity: Intensity) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(intensity)))) == intensity


def test_a_window_fitted_by_numpy_can_be_written() -> None:
    assert json.dumps(to_dict(Window(np.float32(0.5), np.int16(3))))


def test_wrong_descriptions_are_named() -> None:
    with pytest.raises(ConfigError, match="'minmax' is unknown"):
        from_dict({"kind": "minmax"})
    with pytest.raises(ConfigError, match="lower"):
        from_dict({"kind": "percentiles", "low": 1})

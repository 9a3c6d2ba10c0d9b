import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_synth.data.intensity import Percentiles, Window, ZScore
from monai_synth.errors import ConfigError, IntensityError
from monai_synth.transforms import ToNetworkRanged, ToPhysicald


def case(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(300, 40, (1, 9, 8, 5)).astype(np.float32))
    mask = torch.zeros(1, 9, 8, 5, dtype=torch.uint8)
    mask[:, 2:7, 2:6] = 1
    image[mask == 0] = 0
    affine = torch.diag(torch.tensor([1.0, 1, 2.5, 1]))
    return {"condition": MetaTensor(image, affine=affine), "mask": MetaTensor(mask, affine=affine)}


@pytest.mark.parametrize("intensity", [Percentiles(0, 100), ZScore(4)])
def test_fits_inside_the_mask_and_remembers_the_window(intensity: Percentiles | ZScore) -> None:
    data = case()
    out = ToNetworkRanged("condition", intensity, mask_key="mask")(data)
    window = intensity.fit(data["condition"], data["mask"])

    assert out["condition"].meta["intensity_low"] == window.low
    assert out["condition"].meta["intensity_high"] == window.high
    assert out["condition"].meta["intensity_unit"] == "a.u."
    assert torch.equal(out["condition"].as_tensor(), window.to_network(data["condition"].as_tensor()))
    assert "intensity_low" not in data["condition"].meta

    back = ToPhysicald("condition", intensity)(out)["condition"]
    inside = data["mask"] > 0
    torch.testing.assert_close(back[inside], data["condition"][inside], atol=1e-3, rtol=0)
    assert "intensity_low" not in back.meta


def test_every_case_gets_its_own_window() -> None:
    transform = ToNetworkRanged("condition", Percentiles(), mask_key="mask")
    first, second = case(0), case(1)
    second["condition"] = second["condition"] * 7

    assert (
        transform(first)["condition"].meta["intensity_high"] * 5 < transform(second)["condition"].meta["intensity_high"]
    )


def test_a_window_brings_predictions_to_hu_without_metadata() -> None:
    out = ToPhysicald("pred", Window(-1024, 2000))({"pred": torch.tensor([[-1.0, 0.0, 1.0, 3.0]])})

    assert out["pred"].tolist() == [[-1024.0, 488.0, 2000.0, 2000.0]]


def test_a_fixed_window_does_not_look_at_the_mask() -> None:
    data = {"target": torch.full((1, 2, 2), 488.0)}

    assert ToNetworkRanged("target", Window(-1024, 2000), mask_key="absent")(data)["target"].abs().max() == 0


def test_errors_name_the_key() -> None:
    data = case()
    with pytest.raises(ConfigError, match=r"mask_key='body'"):
        ToNetworkRanged("condition", ZScore(), mask_key="body")(data)
    with pytest.raises(IntensityError, match=r"'condition'.*mask is empty"):
        ToNetworkRanged("condition", ZScore(), mask_key="mask")({**data, "mask": data["mask"] * 0})
    with pytest.raises(IntensityError, match="'condition' does not carry the window"):
        ToPhysicald("condition", ZScore())(data)


def test_missing_keys_can_be_allowed() -> None:
    assert ToPhysicald("pred", Window(0, 1), allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ToPhysicald("pred", Window(0, 1))({})

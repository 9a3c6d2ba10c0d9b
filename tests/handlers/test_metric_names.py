"""A metric that a validation does not compute is refused while the training is put together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.inferers import SimpleInferer
from torch import nn

from monai_synth.engines import SynthesisEvaluator
from monai_synth.errors import ConfigError
from monai_synth.handlers import BestModel, EarlyStop, Progress
from monai_synth.metrics import CaseScores, ImageScores

Attach = Callable[[Any, str], None]


def make_evaluator(**options: Any) -> SynthesisEvaluator:
    case = {
        "condition": torch.zeros(1, 1, 4, 4, 4),
        "target": torch.zeros(1, 1, 4, 4, 4),
        "mask": torch.ones(1, 1, 4, 4, 4),
        "patient_id": ["p"],
        "case_id": ["c"],
    }
    arguments: dict[str, Any] = {"key_val_metric": {"mae_hu": CaseScores()}, **options}
    return SynthesisEvaluator(
        device="cpu", val_data_loader=[case], network=nn.Identity(), inferer=SimpleInferer(), **arguments
    )


def _best(evaluator: Any, metric: str) -> None:
    BestModel(nn.Linear(1, 1), Path("model.pt"), metric=metric).attach(evaluator)


def _early_stop(evaluator: Any, metric: str) -> None:
    EarlyStop(evaluator, patience=None, metric=metric).attach(Engine(lambda *_: None))


def _progress(evaluator: Any, metric: str) -> None:
    Progress(evaluator, metric).attach(Engine(lambda *_: None))


HANDLERS = pytest.mark.parametrize("attach", [_best, _early_stop, _progress])


@HANDLERS
def test_a_misspelt_metric_is_refused_with_those_that_there_are(attach: Attach) -> None:
    evaluator = make_evaluator()
    with pytest.raises(
        ConfigError, match=r"'mea_hu' is not computed by .*; there are mae_hu, .*psnr_db, .*--key_metric"
    ):
        attach(evaluator, "mea_hu")
    attach(evaluator, "psnr_db")


@pytest.mark.parametrize("attach", [_best, _early_stop])
def test_a_signed_error_cannot_decide(attach: Attach) -> None:
    with pytest.raises(ConfigError, match=r"'me_hu' is signed, and 0 is its best; there are mae_hu, psnr_db"):
        attach(make_evaluator(), "me_hu")
    _progress(make_evaluator(), "me_hu")


@HANDLERS
def test_an_engine_that_does_not_say_what_it_computes_is_not_asked(attach: Attach) -> None:
    attach(Engine(lambda *_: None), "anything")
    attach(make_evaluator(key_val_metric=None), "anything")  # a handler may compute it


def test_an_evaluator_names_what_a_run_leaves() -> None:
    evaluator = make_evaluator(additional_metrics={"in_all": ImageScores(mask_key=None)})
    evaluator.run()
    # No case is a slice.
    assert set(evaluator.metric_names) - {"ssim_2d"} == set(evaluator.state.metrics)
    assert make_evaluator(key_val_metric=None).metric_names == ()


def test_a_metric_that_was_not_given_is_named_too(tmp_path: Path) -> None:
    best = BestModel(nn.Linear(1, 1), tmp_path / "model.pt", metric="ssim_2d")
    evaluator = make_evaluator(val_handlers=[best])
    with pytest.raises(ConfigError, match=r"gave no metric 'ssim_2d', but .*mae_hu"):
        evaluator.run()

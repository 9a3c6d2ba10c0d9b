"""Metrics of the training itself, on whole batches and on decollated items."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.handlers import MeanAbsoluteError, from_engine
from monai.transforms import Lambdad

from monai_synth.handlers import BalanceMonitor, History, named_losses


@pytest.mark.parametrize("decollate", [False, True])
def test_metrics_of_every_epoch_are_those_of_its_predictions(
    make_trainer: Any, tmp_path: Path, decollate: bool
) -> None:
    errors: list[float] = []
    options: dict[str, Any] = {}
    if decollate:
        options = {"decollate": True, "postprocessing": Lambdad(["pred", "target"], lambda x: 1000 * x)}
    trainer = make_trainer(
        max_epochs=2,
        key_train_metric={"mae": MeanAbsoluteError(output_transform=from_engine(["pred", "target"]))},
        additional_metrics={"again": MeanAbsoluteError(output_transform=from_engine(["pred", "target"]))},
        **options,
    )
    History(tmp_path / "history.csv").attach(trainer)
    BalanceMonitor().attach(trainer)

    def watch(engine: Any) -> None:
        items = engine.state.output
        if isinstance(items, dict):
            items = [{"pred": p, "target": t} for p, t in zip(items["pred"], items["target"], strict=True)]
        errors.extend((item["pred"] - item["target"]).abs().mean().item() for item in items)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, watch)
    trainer.run()
    assert len(errors) == 18
    table = pd.read_csv(tmp_path / "history.csv")
    expected = [sum(errors[:9]) / 9, sum(errors[9:]) / 9]
    assert table["train_mae"].tolist() == pytest.approx(expected, rel=1e-5)
    assert table["train_again"].tolist() == pytest.approx(expected, rel=1e-5)
    assert {"d_real", "d_fake", "g_gan", "g_l1"} <= set(table.columns)
    assert not {"train_g_l1", "train_loss", "loss"} & set(table.columns)
    assert trainer.state.best_metric_epoch > 0


@pytest.mark.parametrize("decollate", [False, True])
def test_what_monai_reads_by_default_is_the_number(make_trainer: Any, decollate: bool) -> None:
    """As ``--tracking mlflow`` configures its handler."""
    read: list[float] = []

    class Handler:
        output_transform = staticmethod(from_engine(["loss"], first=True))

        def attach(self, engine: Any) -> None:
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda e: read.append(float(self.output_transform(e.state.output)))
            )

    make_trainer(max_epochs=1, train_handlers=[Handler()], decollate=decollate).run()
    assert len(read) == 5
    assert all(value > 0 for value in read)


def test_losses_are_found_in_whole_and_in_decollated_output() -> None:
    output = {"pred": torch.zeros(2, 1), "g_l1": torch.tensor(0.5), "case_id": ["a", "b"], "loss": torch.tensor(2.0)}
    items = [{"pred": torch.zeros(1), "g_l1": 0.5, "case_id": "a", "loss": 2.0}] * 2
    for given in (output, items):
        assert {name: value.item() for name, value in named_losses(given).items()} == {"g_l1": 0.5, "loss": 2.0}

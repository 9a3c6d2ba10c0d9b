"""History, best model and record of a training, on a training that is only played."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events, State
from torch import nn

from monai_synth.checkpoints import load_weights
from monai_synth.data import Manifest, Window, read_manifest
from monai_synth.handlers import BestModel, History, describe_run


def _played(values: list[float], *, start: int = 0) -> Engine:
    """An engine whose output is the next value; one epoch is two iterations."""
    numbers = iter(values)
    others = {"loss": torch.tensor(0.0), "pred": torch.zeros(1, 2)}
    engine = Engine(lambda *_: {"g_l1": torch.tensor(next(numbers)), **others})
    engine.state.epoch = start
    return engine


def test_history_holds_means_by_epoch_and_replaces_epochs_that_are_run_again(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv")
    engine = _played([1.0, 3.0, 5.0, 7.0])
    history.attach(engine)
    engine.run([0, 1], max_epochs=2)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["g_l1"].tolist() == [2.0, 6.0]
    assert "loss" not in table
    assert "pred" not in table

    again = _played([10.0, 20.0])
    History(tmp_path / "history.csv").attach(again)
    again.state = State(epoch=1, max_epochs=2, iteration=2, epoch_length=2, metrics={}, seed=0)
    again.run([0, 1])
    assert pd.read_csv(tmp_path / "history.csv")["g_l1"].tolist() == [2.0, 15.0]


def _validate(best: BestModel, value: float, epoch: int) -> None:
    engine = Engine(lambda *_: None)
    best.attach(engine)

    def finish(engine: Any) -> None:
        engine.state.metrics["mae_hu"], engine.state.epoch = value, epoch

    engine.add_event_handler(Events.EPOCH_COMPLETED, finish)
    engine.run([0], max_epochs=1)


def test_best_model_keeps_the_lowest_and_says_what_it_is(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    best = BestModel(network, tmp_path / "model.pt", record={"name": "toy"})
    kept = {}
    for epoch, value in enumerate([math.nan, 50.0, 40.0, 45.0], start=1):
        nn.init.constant_(network.weight, float(epoch))
        _validate(best, value, epoch)
        kept[epoch] = json.loads((tmp_path / "model.json").read_text())
    assert kept[1] == {"name": "toy", "epoch": 1, "metric": "mae_hu", "value": None}
    assert kept[4] == {"name": "toy", "epoch": 3, "metric": "mae_hu", "value": 40.0}
    loaded = nn.Linear(1, 1)
    load_weights(loaded, tmp_path / "model.pt")
    assert loaded.weight.item() == 3.0


def test_best_model_goes_on_from_what_was_best_before(tmp_path: Path) -> None:
    best = BestModel(nn.Linear(1, 1), tmp_path / "model.pt")
    best.load_state_dict({"value": 30.0, "epoch": 7})
    _validate(best, 35.0, 8)
    assert not (tmp_path / "model.pt").exists()
    assert best.state_dict() == {"value": 30.0, "epoch": 7}


def _describe(cohort: Manifest) -> dict[str, Any]:
    return describe_run(
        name="toy",
        cohort=cohort,
        roles={"condition": "mr", "target": "ct"},
        intensity={"target": Window(-1024, 2000)},
        networks={"generator": nn.Linear(2, 1)},
        seed=3,
        device="cpu",
    )


def test_the_record_names_the_folder_of_the_images_where_it_is_not_that_of_the_manifest(
    demo_manifest: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "manifest.csv"
    elsewhere.write_bytes(demo_manifest.read_bytes())
    assert _describe(read_manifest(demo_manifest))["manifest"]["data_root"] is None
    found = _describe(read_manifest(elsewhere, data_root=demo_manifest.parent))["manifest"]["data_root"]
    assert found == str(demo_manifest.parent)


def test_the_record_names_patients_roles_and_contract(demo_manifest: Path) -> None:
    cohort = read_manifest(demo_manifest)
    record = _describe(cohort)
    assert json.loads(json.dumps(record)) == record
    patients = record["manifest"]["patients"]
    assert set(patients) == set(cohort.splits)
    assert set().union(*patients.values()) == cohort.patients
    generator = record["networks"]["generator"]
    assert (generator["class"], generator["parameters"]) == ("Linear", 3)
    assert len(generator["fingerprint"]) == 16
    assert record["intensity"]["target"]["high"] == 2000

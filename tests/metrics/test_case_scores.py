import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import Evaluator, IterationEvents

from monai_synth.errors import ConfigError, GeometryError, IntensityError
from monai_synth.metrics import masked_me
from monai_synth.metrics.case_scores import CaseScores
from monai_synth.metrics.synthrad import score_case
from monai_synth.metrics.tissue import tissue_mae

SHAPE = (1, 9, 10, 11)


def make_item(patient_id, case_id, error_hu, *, shape=SHAPE):
    generator = torch.Generator().manual_seed(sum(map(ord, case_id)))
    target = torch.randn(shape, generator=generator) * 400
    mask = torch.ones(shape)
    mask[:, 0] = 0
    return {
        "condition": target * 2 + 1000,
        "target": MetaTensor(target),
        "pred": MetaTensor(target + error_hu),
        "mask": mask,
        "patient_id": patient_id,
        "case_id": case_id,
    }


ITEMS = [make_item("B", "B1", 10.0), make_item("A", "A1", 20.0), make_item("A", "A2", 60.0)]


def zeros(item):
    return np.zeros(item["target"].shape[1:], np.float32)


def test_row_equals_the_functions_on_the_transposed_volume():
    metric = CaseScores()
    metric.update(ITEMS[:1])
    item = ITEMS[0]
    x, y, mask = (np.asarray(item[key])[0].transpose(2, 1, 0) for key in ("pred", "target", "mask"))
    expected = score_case(x, y, mask) | tissue_mae(x, y, mask=mask)
    expected["me_hu"] = masked_me(item["pred"][None], item["target"][None], mask=item["mask"][None]).item()
    row = metric.table.iloc[0].to_dict()
    assert (row.pop("method"), row.pop("patient_id"), row.pop("case_id")) == ("model", "B", "B1")
    assert row == {key: pytest.approx(expected[key], rel=1e-6) for key in row}
    assert list(row) == [
        "mae_hu",
        "me_hu",
        "psnr_db",
        "ssim",
        "mae_air_hu",
        "mae_soft_tissue_hu",
        "mae_bone_hu",
    ]


def test_mean_is_over_patients_not_cases():
    metric = CaseScores()
    metric.update(ITEMS)
    assert metric.compute()["mae_hu"] == pytest.approx((10 + (20 + 60) / 2) / 2, rel=1e-5)  # not (10 + 20 + 60) / 3


def test_table_is_sorted_and_repeated_cases_count_once():
    metric = CaseScores(extra_methods={"zeros": zeros})
    metric.update(ITEMS)
    once = metric.compute()
    metric.update([ITEMS[0], ITEMS[0]])
    assert metric.compute() == once
    table = metric.table
    assert table["case_id"].tolist() == ["A1", "A1", "A2", "A2", "B1", "B1"]
    assert table["method"].tolist() == ["model", "zeros"] * 3


def test_extra_methods_are_scored_but_do_not_enter_the_mean():
    metric = CaseScores(extra_methods={"zeros": zeros, "four_axes": lambda item: zeros(item)[None]})
    metric.update(ITEMS)
    plain = CaseScores()
    plain.update(ITEMS)
    assert metric.compute() == plain.compute()
    table = metric.table.set_index(["method", "case_id"])
    inside = ITEMS[0]["mask"] > 0
    expected = ITEMS[0]["target"][inside].abs().mean().item()
    assert table.loc[("zeros", "B1"), "mae_hu"] == pytest.approx(expected, rel=1e-5)
    drop = ["patient_id"]
    pd.testing.assert_frame_equal(table.loc["zeros"].drop(columns=drop), table.loc["four_axes"].drop(columns=drop))


def test_engine_gets_the_key_metric_under_its_name_and_all_others():
    engine = Engine(lambda engine, batch: batch)
    metric = CaseScores()
    metric.attach(engine, "val_mae_hu")
    for _ in range(2):  # an epoch forgets the one before
        state = engine.run([ITEMS[:2], ITEMS[2:]], max_epochs=1)
        assert state.metrics["val_mae_hu"] == pytest.approx(25, rel=1e-5)
    assert set(state.metrics) == {
        "val_mae_hu",
        "me_hu",
        "psnr_db",
        "ssim",
        "mae_air_hu",
        "mae_soft_tissue_hu",
        "mae_bone_hu",
    }
    assert all(type(value) is float for value in state.metrics.values())
    assert len(metric.table) == 3


def test_two_volumes_in_a_batch_are_not_unrolled():
    """Two items of two tensors each are what ignite would take for a pair of predictions and targets."""
    engine = Engine(lambda engine, batch: batch)
    metric = CaseScores()
    metric.attach(engine, "mae_hu")
    engine.run([ITEMS[:2]], max_epochs=1)
    assert metric.table["case_id"].tolist() == ["A1", "B1"]


def test_in_a_monai_evaluator_that_decollates():
    def identity(engine, batch):
        engine.state.output = {**batch, "pred": batch["target"] + 3}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)  # decollation hangs on it
        return engine.state.output

    metric = CaseScores()
    evaluator = Evaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(ITEMS), batch_size=2),
        iteration_update=identity,
        key_val_metric={"mae_hu": metric},
        metric_cmp_fn=lambda current, best: current < best,
        decollate=True,
    )
    evaluator.run()
    assert evaluator.state.metrics["mae_hu"] == pytest.approx(3, rel=1e-5)
    assert evaluator.state.best_metric == evaluator.state.metrics["mae_hu"]
    assert metric.table["case_id"].tolist() == ["A1", "A2", "B1"]


def test_slices_are_scored_in_the_plane():
    metric = CaseScores(key_metric="ssim_2d")
    metric.update([make_item("A", "A1", 5.0, shape=(1, 12, 13, 1))])
    means = metric.compute()
    assert np.isnan(means["ssim"])
    assert 0 < means["ssim_2d"] < 1


def test_preset_2025_and_own_keys_and_bins():
    item = make_item("A", "A1", 5.0)
    item["synthetic"] = item.pop("pred")
    metric = CaseScores("synthrad2025", "mae_lung_hu", {"lung": (None, -500)}, pred_key="synthetic", mask_key=None)
    metric.update(item)
    means = metric.compute()
    assert {"ms_ssim", "mae_lung_hu"} <= set(means)
    assert "ssim" not in means
    assert means["mae_hu"] == pytest.approx(5, rel=1e-4)


def test_nothing_seen():
    metric = CaseScores()
    assert list(metric.table.columns) == ["method", "patient_id", "case_id"]
    with pytest.raises(NotComputableError, match="at least one case"):
        metric.compute()


def test_errors_name_the_case_and_the_way_out():
    broken = make_item("A", "A7", 5.0)
    broken["pred"][0, 4, 4, 4] = float("nan")
    with pytest.raises(IntensityError, match=r"Case 'A7', method 'model'.*has 1 NaN"):
        CaseScores().update([broken])
    with pytest.raises(ConfigError, match="not 'mask'"):
        CaseScores().update([{key: value for key, value in ITEMS[0].items() if key != "mask"}])
    with pytest.raises(GeometryError, match="one channel of one volume"):
        CaseScores().update([{**ITEMS[0], "target": torch.zeros(2, 9, 10, 11)}])


def test_a_flipped_target_is_not_scored_although_its_shape_fits():
    item = make_item("A", "A1", 10.0)
    flipped = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    item["target"] = MetaTensor(item["target"], affine=flipped)
    with pytest.raises(GeometryError, match="Case 'A1': 'pred' is not on the grid of 'target': flipped along axis x"):
        CaseScores().update([item])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "2023"}, "preset '2023'"),
        ({"key_metric": "mae"}, "key_metric 'mae'"),
        ({"preset": "synthrad2025", "key_metric": "ssim"}, "key_metric 'ssim'"),
        ({"bins_hu": {"bone": (3, 2)}}, "bone"),
        ({"extra_methods": {"model": zeros}}, "'model'"),
    ],
)
def test_wrong_arguments_are_named_before_the_evaluation(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CaseScores(**arguments)


def test_ranks_gather_their_rows(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            import ignite.distributed as idist
            from test_case_scores import ITEMS, CaseScores
            idist.initialize("gloo")
            metric = CaseScores()
            # Rank 1 repeats a case of rank 0, as a DistributedSampler that pads does.
            metric.update(ITEMS[:2] if idist.get_rank() == 0 else ITEMS[1:])
            mae = metric.compute()["mae_hu"]
            print("RESULT", round(mae, 3), "".join(metric.table["case_id"]), flush=True)
            idist.finalize()
            """
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in outputs:
        assert "RESULT 25.0 A1A2B1" in out, err

import json

import pytest

from monai_synth.errors import ConfigError
from monai_synth.reports.run_folder import read_run


def test_ids_stay_text_and_metrics_become_numbers(make_run):
    folder = make_run(case_ids=["000", "NA"])
    run = read_run(folder)
    assert run.missing == ()
    assert list(dict.fromkeys(run.cases["case_id"])) == ["000", "NA"]
    assert run.cases["mae_hu"].dtype == float
    assert run.history["val_mae_hu"].notna().sum() == 8


def test_what_is_missing_names_its_command(make_run):
    folder = make_run()
    (folder / "history.csv").unlink()
    (folder / "evaluation" / "summary.csv").unlink()
    run = read_run(folder)
    assert [part.file for part in run.missing] == ["history.csv", "evaluation/summary.csv"]
    assert run.history is None
    assert run.summary is None
    assert "configs/evaluate.json" in run.missing[1].command
    assert str(folder) in run.missing[1].command


def test_commands_name_the_folder_of_the_images_where_it_is_not_that_of_the_manifest(make_run):
    folder = make_run(shape=(21, 19, 1))
    (folder / "history.csv").unlink()
    (folder / "evaluation" / "cases.csv").unlink()
    assert not any("--dataset_dir" in part.command for part in read_run(folder).missing)
    record = json.loads((folder / "run.json").read_text())
    record["manifest"]["data_root"] = "/data/a cohort"
    (folder / "run.json").write_text(json.dumps(record))
    run = read_run(folder)
    for command in (run.evaluate_command, *(part.command for part in run.missing)):
        assert "--manifest data/cohort/manifest.csv --dataset_dir '/data/a cohort' --output_dir" in command


def test_a_folder_that_is_no_run_names_the_runs_below_it(make_run, tmp_path):
    make_run("first")
    with pytest.raises(ConfigError, match=r"is no run.*'first'"):
        read_run(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is no run.*monai\.bundle run"):
        read_run(tmp_path / "empty")
    with pytest.raises(ConfigError, match="not a folder"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", "not valid JSON"),
        ("run.json", "[]", "must hold an object"),
        ("history.csv", "a,b\n1,2\n", "no column 'epoch'"),
        ("history.csv", "epoch,g_l1\n1,0.5\n2,oops\n", "'g_l1'.*holds 'oops'"),
        ("evaluation/summary.csv", "", "not a readable CSV"),
    ],
)
def test_damaged_files_are_named(make_run, file, content, message):
    folder = make_run()
    (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_run(folder)
    assert file.split("/")[-1] in str(caught.value)

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from monai_synth.errors import ConfigError
from monai_synth.reports import write_report


class Resources(HTMLParser):
    """Collects tags and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")
        ]


def page_of(folder: Path, **options) -> str:
    return write_report(folder, **options).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page.partition("<body>")[2])
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_one_file_that_fetches_nothing(make_run):
    page = page_of(make_run())
    found = Resources()
    found.feed(page)
    assert found.fetched
    assert all(value.startswith("data:image/png;base64,") for value in found.fetched)
    assert not found.tags & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"https?://|@import|url\(", page)
    assert len(page) < 4e6


def test_it_holds_the_numbers_of_the_tables(make_run):
    folder = make_run()
    text = text_of(page_of(folder))
    summary = pd.read_csv(folder / "evaluation" / "summary.csv").set_index(["method", "metric"])
    for method in ("model", "body_as_water", "mean_target_by_condition", "histogram_match"):
        assert method.replace("_", " ") in text
        row = summary.loc[(method, "mae_hu")]
        assert f"{row['mean']:.1f}" in text
        assert f"{row['ci_low']:.1f} to {row['ci_high']:.1f}" in text
    assert f"{summary.loc[('model', 'psnr_db'), 'mean']:.2f}" in text
    for words in (
        "Preset synthrad2023",
        "column 'mask'",
        "13.02 million parameters",
        "−500 to 1000 HU",
        "Radiological convention",
    ):
        assert words in text.replace("&#39;", "'")
    assert text.count("Axial slice") == 6


def test_worst_case_comes_first(make_run):
    folder = make_run(case_ids=["A", "B", "C"])
    file = folder / "evaluation" / "cases.csv"
    cases = pd.read_csv(file)
    cases.loc[cases["method"] == "model", "mae_hu"] = [50.0, 700.0, 60.0]
    cases.to_csv(file, index=False)
    assert re.findall(r"<h3>\d+\. (\w+)", page_of(folder)) == ["B", "C", "A"]


def test_ids_and_names_are_escaped(make_run):
    page = page_of(make_run(case_ids=["<script>alert(1)</script>", 'a"><img src=x>&'], shape=(21, 19, 1)))
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_pictures_are_limited_and_the_rest_is_counted(make_run):
    folder = make_run(case_ids=[f"C{number:02d}" for number in range(14)], shape=(21, 19, 1))
    page = page_of(folder)
    text = text_of(page)
    assert "The 12 cases with the largest masked MAE of 14, worst first; 2 are left out" in text
    assert page.count("<h3>") == 12
    assert page_of(folder, max_cases=3).count("<h3>") == 3


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("run.json", "what was trained on what is unknown"),
        ("history.csv", "no learning curves"),
        ("evaluation/summary.csv", "no results table"),
        ("evaluation/cases.csv", "no pictures"),
        ("evaluation/evaluation.json", "split, preset and checkpoint epoch"),
    ],
)
def test_a_missing_part_is_named_with_its_command(make_run, lost, words):
    folder = make_run(shape=(21, 19, 1))
    (folder / lost).unlink()
    text = text_of(page_of(folder))
    assert "This report is incomplete" in text
    assert words in text
    assert "python -m monai.bundle run" in text


def test_a_training_without_evaluation_gives_curves_and_the_way_on(make_run):
    folder = make_run(shape=(21, 19, 1))
    for file in (folder / "evaluation").glob("*.*"):
        file.unlink()
    page = page_of(folder)
    assert "Not evaluated yet" in page
    assert "['configs/train.json','configs/evaluate.json']" in text_of(page).replace("&#39;", "'").replace("&#34;", '"')
    assert page.count("<img") == 1
    assert "NaN" not in text_of(page)


def test_no_baselines_and_no_prediction_are_said(make_run):
    folder = make_run(has_baselines=False, shape=(21, 19, 1))
    for file in (folder / "evaluation" / "predictions").iterdir():
        file.unlink()
    text = text_of(page_of(folder))
    assert "No baseline was evaluated" in text
    assert text.count("Prediction file is missing") == 3
    assert "To make the missing picture" in text


def test_a_metric_without_value_is_a_dash_with_a_footnote(make_run):
    folder = make_run(shape=(21, 19, 1))
    for name, columns in (("cases.csv", "ssim"), ("summary.csv", ["mean", "ci_low", "ci_high"])):
        file = folder / "evaluation" / name
        table = pd.read_csv(file)
        rows = slice(None) if name == "cases.csv" else table["metric"] == "ssim"
        table.loc[rows, columns] = float("nan")
        table.to_csv(file, index=False)
    page = page_of(folder)
    assert "<td>–<sup>a</sup></td>" in page
    assert re.search(r'class="footnote"><sup>a</sup> SSIM: the image is smaller', page)
    assert "nan" not in text_of(page).lower().split()
    assert not re.search(r"\b0\.000\b", text_of(page))


def test_training_patients_are_no_test(make_run):
    assert "Training patients: not a test" in page_of(make_run(split="train", shape=(21, 19, 1)))


def test_out_is_where_it_is_asked_for(make_run, tmp_path):
    folder = make_run(shape=(21, 19, 1))
    assert write_report(folder) == folder / "report.html"
    assert write_report(folder, tmp_path / "new" / "my.html").is_file()
    with pytest.raises(ConfigError, match="window_hu"):
        write_report(folder, window_hu=(100, 100))
    with pytest.raises(ConfigError, match="no run"):
        write_report(tmp_path)


def test_other_columns_do_not_hurt(make_run):
    folder = make_run(shape=(21, 19, 1))
    record = json.loads((folder / "run.json").read_text())
    record |= {"roles": {"condition": ["t1", "t2"], "target": "ct", "mask": None}, "training": {}}
    (folder / "run.json").write_text(json.dumps(record))
    history = pd.read_csv(folder / "history.csv").assign(balance=0.5, g_norm=1.0, note="fine")
    history.to_csv(folder / "history.csv", index=False)
    cases = pd.read_csv(folder / "evaluation" / "cases.csv").assign(scanner="<b>X</b>", gamma=0.97)
    cases.to_csv(folder / "evaluation" / "cases.csv", index=False)
    text = text_of(page_of(folder))
    assert "gamma 0.970" in text
    assert "condition: t1 + t2" in text
    assert "this run has no mask" in text

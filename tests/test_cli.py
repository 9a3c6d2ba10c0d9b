"""The commands as a shell calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from monai.bundle import ConfigParser

from monai_synth import __version__, cli
from monai_synth.checkpoints import load_weights
from monai_synth.networks import list_networks


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["monai-synth", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return int(leaving.value.code or 0)


def test_the_installed_command_and_the_module_answer() -> None:
    for command in ([str(Path(sys.executable).with_name("monai-synth"))], [sys.executable, "-m", "monai_synth"]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=120)
        assert result.stdout.strip() == __version__


def test_from_nothing_to_a_checked_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    assert _run(monkeypatch, "demo-cohort", cohort, "--patients", 4, "--voxel-mm", 8) == 0
    assert _run(monkeypatch, "manifest", "check", cohort / "manifest.csv") == 0
    assert "4 cases of 4 patients" in capsys.readouterr().out
    split = cohort / "split.csv"
    options = ["--fractions", "0.5,0.25,0.25", "--seed", 3, "--by", "patient_id"]
    assert _run(monkeypatch, "manifest", "split", cohort / "manifest.csv", "--out", split, *options) == 0
    assert sorted(pd.read_csv(split)["split"]) == ["test", "train", "train", "val"]
    assert _run(monkeypatch, "manifest", "split", cohort / "manifest.csv", "--out", split, "--folds", 2) == 1
    assert "--overwrite" in capsys.readouterr().err
    options = ["--folds", 2, "--overwrite"]
    assert _run(monkeypatch, "manifest", "split", cohort / "manifest.csv", "--out", split, *options) == 0
    assert set(pd.read_csv(split)["fold"].dropna()) == {0, 1}


def test_a_split_written_elsewhere_says_where_its_paths_start(
    monkeypatch: pytest.MonkeyPatch, demo_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folds.csv"
    assert _run(monkeypatch, "manifest", "split", demo_manifest, "--out", out, "--folds", 2) == 0
    assert f"--dataset_dir {demo_manifest.parent}" in capsys.readouterr().out
    assert _run(monkeypatch, "manifest", "check", out) == 1
    assert _run(monkeypatch, "manifest", "check", out, "--data-root", demo_manifest.parent) == 0


def test_a_split_with_a_root_that_is_not_that_of_its_paths_is_refused(
    monkeypatch: pytest.MonkeyPatch, demo_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", tmp_path / "folds.csv", "--folds", 2, "--data-root", tmp_path]
    assert _run(monkeypatch, "manifest", "split", demo_manifest, *options) == 1
    assert "leave --data-root out" in capsys.readouterr().err
    assert not (tmp_path / "folds.csv").exists()
    assert _run(monkeypatch, "manifest", "split", demo_manifest, *options, "--allow-missing") == 0


def test_check_lists_findings_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, demo_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(demo_manifest, dtype=str)
    table.loc[0, "ct"] = "nowhere/ct.nii.gz"
    broken = demo_manifest.with_name("broken.csv")
    table.to_csv(broken, index=False)
    assert _run(monkeypatch, "manifest", "check", broken) == 1
    text = capsys.readouterr().out
    assert table.loc[0, "case_id"] in text
    assert "1 error(s)" in text


def test_build_by_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_manifest: Path) -> None:
    first = demo_manifest.parent / "P001"
    for patient in ("1BA001", "1BB002"):
        folder = tmp_path / "Task1" / "brain" / patient
        folder.mkdir(parents=True)
        for role in ("mr", "ct", "mask"):
            (folder / f"{role}.nii.gz").write_bytes((first / f"{role}.nii.gz").read_bytes())
    out = tmp_path / "cohort.csv"
    assert _run(monkeypatch, "manifest", "build", "--recipe", "synthrad2023", "--root", tmp_path, out) == 0
    assert list(pd.read_csv(out)["case_id"]) == ["1BA001", "1BB002"]
    assert _run(monkeypatch, "manifest", "build", "--recipe", "synthrad2023", "--root", tmp_path, out) == 1
    assert (
        _run(monkeypatch, "manifest", "build", "--recipe", "synthrad2023", "--root", tmp_path, out, "--overwrite") == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "check", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["report", "nowhere"], "nowhere"),
        (["manifest", "split", "x.csv", "--out", "y.csv"], "either --folds N or --fractions"),
        (
            ["manifest", "split", "x.csv", "--out", "y.csv", "--folds", "3", "--by", "case_id"],
            "only patient_id is possible",
        ),
        (["manifest", "build", "--recipe", "nonesuch", "--root", ".", "out.csv"], "nonesuch"),
    ],
)
def test_errors_are_one_sentence_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _run(monkeypatch, *arguments) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert message in text
    assert "Traceback" not in text


def test_fractions_that_are_no_numbers_are_refused(
    monkeypatch: pytest.MonkeyPatch, demo_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", demo_manifest.with_name("s.csv"), "--fractions", "most,some"]
    assert _run(monkeypatch, "manifest", "split", demo_manifest, *options) == 1
    assert "two or three numbers" in capsys.readouterr().err


def test_a_published_file_becomes_ours(
    monkeypatch: pytest.MonkeyPatch, golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = golden_dir / "import_pix2pix_unet_batch_old.pth", tmp_path / "model.pt"
    assert _run(monkeypatch, "checkpoint", "import", file, "--out", out, "--option", "dropout=0.5") == 0
    printed = capsys.readouterr().out
    assert "pix2pix_unet: monai_synth.networks.unet.UNetGenerator, 37,185 parameters" in printed
    assert "39 entries used, 0 dropped" in printed
    config = json.loads((tmp_path / "model.json").read_text())
    assert config["network_def"]["dropout"] == 0.5
    network = ConfigParser(config).get_parsed_content("network_def")
    load_weights(network, out)
    assert _run(monkeypatch, "checkpoint", "import", file, "--out", out) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert _run(monkeypatch, "checkpoint", "import", file, "--out", out, "--overwrite", "--verbose") == 0
    assert "model.model.0.weight -> downs.0.conv.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [("dropout", "give name=value"), ("dropouts=0.5", "no argument dropouts"), ("norm=layer", "norm='layer'")],
)
def test_wrong_import_options_are_named(
    monkeypatch: pytest.MonkeyPatch,
    golden_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    message: str,
) -> None:
    file = golden_dir / "import_pix2pix_unet_batch_old.pth"
    assert _run(monkeypatch, "checkpoint", "import", file, "--out", tmp_path / "x.pt", "--option", option) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_networks_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "networks") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list_networks())
    assert any(line.split()[:3] == ["pix2pix_unet", "generator", "54,413,955"] for line in lines)
    assert _run(monkeypatch, "networks", "oasis") == 0
    text = capsys.readouterr().out
    assert "monai_synth.networks.oasis.OASISGenerator, generator" in text
    assert "noise_channels" in text
    assert _run(monkeypatch, "networks", "oasys") == 1
    assert "There is no network 'oasys'" in capsys.readouterr().err

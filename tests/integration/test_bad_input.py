"""Bad input on its whole path: from files on disk through the bundle's own configuration to the words a user reads.

Each damage is done to a copy of the phantom cohort and then met by ``monai-synth manifest check``, a training, an
evaluation or an inference. What only one function knows is tested beside that function.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_synth import cli
from monai_synth.checkpoints import save_weights
from monai_synth.errors import SynthError
from monai_synth.networks import UNetGenerator

BUNDLE = Path("bundles/mr_to_ct_pix2pix/configs")
TINY = {"channels": 2, "patch_size": [64, 64], "batch_size": 8, "epochs": 1, "val_interval": 1}
TRAIN, VAL, TEST = "P001", "P002", "P003"
Run = Callable[..., None]
Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bundle changes the hook of uncaught errors; Ignite logs what the tests expect."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def cohort(demo_manifest: Path, tmp_path: Path) -> Path:
    """A cohort that a test may damage."""
    return Path(shutil.copytree(demo_manifest.parent, tmp_path / "cohort"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights without a training: enough for everything that stops before or after the network."""
    torch.manual_seed(0)
    return save_weights(
        UNetGenerator(
            spatial_dims=2, in_channels=1, out_channels=1, channels=2, num_downs=6, norm="batch", dropout=0.0
        ),
        tmp_path_factory.mktemp("model") / "model.pt",
        extra_json={"manifest": {"patients": {"train": [TRAIN], "val": [VAL]}}},
    )


@pytest.fixture
def run(repository: Path) -> Run:
    """Run a bundle's configuration as ``python -m monai.bundle run`` does, in this process."""

    def workflow(run_id: str, *configs: str, **options: Any) -> None:
        files = [str(repository / BUNDLE / name) for name in configs]
        bundle = ConfigWorkflow(config_file=files, logging_file=False, run_id=run_id, **options)
        bundle.initialize()
        bundle.run()

    return workflow


@pytest.fixture
def train(run: Run, tmp_path: Path) -> Run:
    def start(manifest: Path, **options: Any) -> None:
        options = {**TINY, "manifest": str(manifest), "output_dir": str(tmp_path / "run"), **options}
        run("training", "train.json", **options)

    return start


@pytest.fixture
def evaluate(run: Run, tmp_path: Path, model: Path) -> Run:
    def start(manifest: Path, **options: Any) -> None:
        options = {"checkpoint": str(model), "output_dir": str(tmp_path / "run"), **options}
        run("evaluating", "train.json", "evaluate.json", **{**TINY, "manifest": str(manifest), **options})

    return start


@pytest.fixture
def infer(run: Run, tmp_path: Path, model: Path) -> Run:
    def start(source: Path, **options: Any) -> None:
        options = {"checkpoint": str(model), "output_dir": str(tmp_path / "out"), **options}
        run("inference", "inference.json", **{"channels": 2, "input": str(source), **options})

    return start


def sentence(call: Callable[[], object]) -> str:
    """What our code says when it stops a bundle: the first of our errors below those that MONAI wraps around it."""
    with pytest.raises(Exception, match=r"[\s\S]+") as caught:
        call()
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, SynthError):
        error = error.__cause__ or error.__context__
    assert error is not None, f"no error of monai_synth in {caught.value!r}"
    return str(error)


def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> tuple[int, str]:
    """Exit code and words of ``monai-synth manifest check``; wrapped lines of the table are joined."""
    monkeypatch.setattr(sys, "argv", ["monai-synth", "manifest", "check", str(file)])
    code = 0
    try:
        cli.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


# --- damages: each takes the folder of a cohort -----------------------------------------------------------------------


def voxels(patient: str, role: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(cohort: Path) -> None:
        file = cohort / patient / f"{role}.nii.gz"
        image = nib.load(file)
        nib.save(nib.Nifti1Image(change(np.asanyarray(image.dataobj)), image.affine), file)

    return damage


def affine(patient: str, role: str, change: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]) -> Damage:
    def damage(cohort: Path) -> None:
        file = cohort / patient / f"{role}.nii.gz"
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), change(image.affine.copy(), image.shape)), file)

    return damage


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    def damage(cohort: Path) -> None:
        file = cohort / "manifest.csv"
        change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)

    return damage


def both(*damages: Damage) -> Damage:
    return lambda cohort: [damage(cohort) for damage in damages]


def truncated(patient: str, role: str) -> Damage:
    def damage(cohort: Path) -> None:
        file = cohort / patient / f"{role}.nii.gz"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def linked_out(cohort: Path) -> None:
    file = cohort / TRAIN / "mr.nii.gz"
    os.symlink(file.rename(cohort.parent / "elsewhere.nii.gz"), file)


def with_nan(volume: np.ndarray) -> np.ndarray:
    volume = volume.astype(np.float32)
    centre = tuple(size // 2 for size in volume.shape)
    volume[centre] = np.nan
    return volume


def shifted(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    matrix[0, 3] += 12
    return matrix


def flipped(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    matrix[:3, 3] += matrix[:3, 0] * (shape[0] - 1)
    matrix[:3, 0] *= -1
    return matrix


def cell(row: str, column: str, value: str) -> Damage:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        rows.loc[rows["case_id"] == row, column] = value
        return rows

    return table(change)


# --- the manifest: refused before an image is opened, with the same words by every command ----------------------------


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            table(lambda rows: pd.concat([rows, rows[:1].assign(case_id="again", split="test")])),
            ["'P001' (test, train)", "manifest split", "--by patient_id"],
        ),
        (table(lambda rows: pd.concat([rows, rows[:1]])), ["line 7", "'case_id': 'P001'", "unique", "own id"]),
        (cell(TRAIN, "mr", "../../x/mr.nii.gz"), ["line 2, column 'mr': '../../x/mr.nii.gz'", "data_root"]),
        (cell(TRAIN, "mr", "/data/mr.nii.gz"), ["'/data/mr.nii.gz'", "relative to the CSV's folder", "data_root"]),
        (cell(TRAIN, "split", "Training"), ["'Training'", "train, val or test", "lower case"]),
    ],
    ids=["patient in two splits", "case twice", "parent folder", "absolute path", "unknown split"],
)
def test_manifests_that_break_the_contract(
    cohort: Path,
    train: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    words: list[str],
) -> None:
    damage(cohort)
    code, said = check(monkeypatch, capsys, cohort / "manifest.csv")
    assert code == 1
    for text in (said, sentence(lambda: train(cohort / "manifest.csv"))):
        assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (table(lambda rows: rows.drop(columns="mask")), {}, ["Role 'mask'", "mr, ct, labels", "add the column"]),
        (table(lambda rows: rows), {"roles#condition": "t1"}, ["Role 't1'", "mr, ct, mask, labels"]),
        (cell("P004", "mask", ""), {}, ["1 of 3 cases", "'mask' (P004)", "Fill the cells"]),
        (table(lambda rows: rows.drop(columns="split")), {}, ["no split", "monai-synth manifest split"]),
        (table(lambda rows: rows[rows["split"] != "val"]), {}, ["Part 'val'", "splits train, test", "manifest split"]),
        (table(lambda rows: rows), {"fold": 0}, ["Fold 0", "no folds", "manifest split"]),
        (lambda cohort: (cohort / "manifest.csv").unlink(), {}, ["manifest.csv cannot be read", "existing"]),
    ],
    ids=["no role column", "other role", "empty cell", "no split", "val empty", "no fold", "no manifest"],
)
def test_manifests_that_do_not_fit_the_bundle(
    cohort: Path, train: Run, tmp_path: Path, damage: Damage, options: dict[str, Any], words: list[str]
) -> None:
    damage(cohort)
    text = sentence(lambda: train(cohort / "manifest.csv", **options))
    assert [word for word in words if word not in text] == [], text
    assert not (tmp_path / "run" / "models").exists()


# --- images: `check` lists them all, also when a training starts; unchecked, a training stops at the first ------------


@pytest.mark.parametrize(
    ("damage", "listed", "words"),
    [
        (lambda cohort: (cohort / TRAIN / "ct.nii.gz").unlink(), "ct.nii.gz does not exist", "'target' is missing"),
        (truncated(TRAIN, "mr"), "cannot be read to its end", "ended before the end-of-stream"),
        (voxels(TRAIN, "mr", with_nan), "1 NaN", "'condition': 1 of"),
        (voxels(TRAIN, "ct", with_nan), "1 NaN", "'target': 1 of"),
        (voxels(TRAIN, "mr", lambda mr: mr[2:]), "shape is", "not on the grid of 'condition': shape is"),
        (affine(TRAIN, "mr", shifted), "shifted by 12.0 mm (x -12.0, y +0.0, z +0.0", "shifted by 12.0 mm (x -12.0"),
        (affine(TRAIN, "mask", shifted), "shifted by 12.0 mm (x +12.0", "'mask' is not on the grid of 'condition'"),
        (voxels(TRAIN, "mr", np.zeros_like), "every voxel is 0", "the image is constant (0)"),
    ],
    ids=["missing", "truncated", "NaN in MR", "NaN in CT", "other shape", "shifted", "mask shifted", "MR all zero"],
)
def test_images_that_no_training_may_see(
    cohort: Path,
    train: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    listed: str,
    words: str,
) -> None:
    damage(cohort)
    code, said = check(monkeypatch, capsys, cohort / "manifest.csv")
    assert code == 1
    assert listed in said
    assert TRAIN in said
    before = sentence(lambda: train(cohort / "manifest.csv"))
    assert "names images that cannot be used" in before
    assert TRAIN in before
    text = sentence(lambda: train(cohort / "manifest.csv", check=False))
    assert f"Case '{TRAIN}'" in text
    assert words in text
    assert not (tmp_path / "run" / "models" / "last.pt").exists()


def everywhere(change: Callable[[np.ndarray], np.ndarray], role: str = "mask") -> Damage:
    return both(*(voxels(patient, role, change) for patient in (TRAIN, "P004", "P005")))


def test_a_training_without_a_body_anywhere(cohort: Path, train: Run) -> None:
    everywhere(np.zeros_like)(cohort)
    text = sentence(lambda: train(cohort / "manifest.csv", check=False))
    assert f"Case '{TRAIN}': 'mask' is empty" in text


@pytest.mark.parametrize(
    ("damage", "listed"),
    [
        (affine(TRAIN, "mr", flipped), "flipped along axis x"),
        (voxels(TRAIN, "mask", np.zeros_like), "no voxel is above 0"),
        (voxels(TRAIN, "mask", lambda mask: mask * 0.5), "not whole numbers (first: 0.5)"),
        (voxels(TRAIN, "ct", lambda ct: ((ct.clip(-1024, 2000) + 1024) / 12).astype(np.uint8)), "not HU"),
        (voxels(TRAIN, "mr", lambda mr: np.stack([mr, mr], -1)), "is 4D"),
        (linked_out, "outside"),
    ],
    ids=["mirrored header", "one empty mask", "soft mask", "8-bit CT", "4D", "link out of the root"],
)
def test_images_that_only_the_check_finds(
    cohort: Path,
    train: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    listed: str,
) -> None:
    """Later there is no way to know: a header that mirrors a patient is as valid as another."""
    damage(cohort)
    code, said = check(monkeypatch, capsys, cohort / "manifest.csv")
    assert code == 1
    assert listed in said
    assert "names images that cannot be used" in sentence(lambda: train(cohort / "manifest.csv"))


@pytest.mark.parametrize(
    "damage",
    [
        voxels(TRAIN, "mask", lambda mask: mask.astype(np.float64)),
        both(*(voxels(TRAIN, role, lambda image: image[:, :, 16:17]) for role in ("mr", "ct", "mask", "labels"))),
        both(*(voxels(TRAIN, role, lambda image: image[:-1, :-2, :-3]) for role in ("mr", "ct", "mask", "labels"))),
        table(lambda rows: rows[rows["case_id"].isin([TRAIN, VAL])]),
    ],
    ids=["mask as float64", "one slice", "odd sizes", "one patient"],
)
def test_unusual_but_sound_cohorts_train(
    cohort: Path,
    train: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
) -> None:
    damage(cohort)
    assert check(monkeypatch, capsys, cohort / "manifest.csv")[0] == 0
    train(cohort / "manifest.csv", batch_size=64)
    assert (tmp_path / "run" / "models" / "model.pt").exists()
    assert np.isfinite(pd.read_csv(tmp_path / "run" / "history.csv")["val_mae_hu"]).all()


# --- options and folders of a training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": [60, 60]}, ["[60, 60]", "multiples of 64"]),
        ({"resume": "maybe"}, ["resume='maybe'", "neither true nor false"]),
        ({"resume": True}, ["holds no last.pt", "without --resume"]),
    ],
    ids=["patch size", "resume maybe", "nothing to resume"],
)
def test_options_that_cannot_work(cohort: Path, train: Run, options: dict[str, Any], words: list[str]) -> None:
    text = sentence(lambda: train(cohort / "manifest.csv", **options))
    assert [word for word in words if word not in text] == [], text


@pytest.fixture(scope="session")
def trained(repository: Path, demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; copy it before changing it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = {**TINY, "manifest": str(demo_manifest), "output_dir": str(folder)}
    hook = sys.excepthook
    workflow = ConfigWorkflow(
        config_file=str(repository / BUNDLE / "train.json"), logging_file=False, run_id="training", **options
    )
    workflow.initialize()
    workflow.run()
    sys.excepthook = hook
    return folder


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (None, {}, ["last.pt holds an earlier training", "--resume true", "--overwrite true"]),
        (None, {"resume": True, "channels": 4}, ["channels: 2 before, 4 now"]),
        (None, {"resume": True, "batch_size": 4}, ["batch size: 8 before, 4 now", "same settings"]),
        (0.5, {"resume": True}, ["last.pt", "truncated, damaged", "Copy or download it again"]),
    ],
    ids=["run again", "other network", "other batch size", "last.pt truncated"],
)
def test_an_earlier_training_is_neither_lost_nor_mixed(
    demo_manifest: Path,
    train: Run,
    trained: Path,
    tmp_path: Path,
    spoil: float | None,
    options: dict[str, Any],
    words: list[str],
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    last = tmp_path / "run" / "models" / "last.pt"
    if spoil is not None:
        last.write_bytes(last.read_bytes()[: int(last.stat().st_size * spoil)])
    before = {file.name: file.read_bytes() for file in last.parent.iterdir()}
    text = sentence(lambda: train(demo_manifest, **{"epochs": 2, **options}))
    assert [word for word in words if word not in text] == [], text
    assert {file.name: file.read_bytes() for file in last.parent.iterdir()} == before


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (voxels(TEST, "mr", lambda mr: mr[2:]), ["Case 'P003'", "not on the grid of 'target': shape is"]),
        (affine(TEST, "mr", shifted), ["Case 'P003'", "not on the grid of 'target'", "shifted by 12.0 mm"]),
        (affine(TEST, "mr", flipped), ["Case 'P003'", "not on the grid of 'target'", "flipped along axis x"]),
        (affine(TEST, "mask", shifted), ["Case 'P003'", "'mask' is not on the grid of 'target'"]),
        (voxels(TEST, "ct", with_nan), ["Case 'P003'", "target has 1 NaN"]),
        (voxels(TEST, "mr", with_nan), ["1 of", "NaN or infinite", "Repair the image"]),
        (voxels(TEST, "mr", np.zeros_like), ["the image is constant (0)", "Check the file"]),
        (table(lambda rows: rows[rows["split"] != "test"]), ["Part 'test'", "splits train, val"]),
        (both(cell(TRAIN, "split", "test"), cell(TEST, "split", "train")), ["'P001'", "'train' patients", "--split"]),
    ],
    ids=["shape", "shifted", "mirrored", "mask shifted", "NaN in CT", "NaN in MR", "MR zero", "no test", "leakage"],
)
def test_evaluations_that_would_give_wrong_numbers(
    cohort: Path, evaluate: Run, tmp_path: Path, damage: Damage, words: list[str]
) -> None:
    damage(cohort)
    text = sentence(lambda: evaluate(cohort / "manifest.csv", check=False))
    assert [word for word in words if word not in text] == [], text
    assert not (tmp_path / "run" / "evaluation" / "cases.csv").exists()


def test_the_numbers_are_those_of_the_written_files(cohort: Path, evaluate: Run, tmp_path: Path) -> None:
    evaluate(cohort / "manifest.csv")
    row = pd.read_csv(tmp_path / "run" / "evaluation" / "cases.csv").query("method == 'model'").iloc[0]
    written, target, mask, condition = (nib.load(row[name]) for name in ("prediction", "target", "mask", "condition"))
    np.testing.assert_allclose(written.affine, condition.affine, atol=1e-4)
    assert (written.shape, written.get_data_dtype()) == (condition.shape, np.int16)
    inside = np.asanyarray(mask.dataobj) > 0
    error = (np.asanyarray(written.dataobj).astype(float) - np.asanyarray(target.dataobj).astype(float))[inside]
    assert row["mae_hu"] == pytest.approx(np.abs(error).mean(), abs=1e-6)
    assert row["me_hu"] == pytest.approx(error.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("other", ["does not fit UNetGenerator", "file [2, 1, 4, 4], network [4, 1, 4, 4]", "Build the network"]),
        ("truncated", ["truncated, damaged or no torch file", "bytes", "Copy or download it again"]),
        ("absent", ["There is no checkpoint", "nothing is downloaded"]),
        ("training", ["last.pt is not the state dict of one network", "models/model.pt"]),
        ("window", ["trained with target", "-1000.0", "--intensity#target"]),
    ],
)
def test_checkpoints_that_are_not_the_model(
    demo_manifest: Path,
    evaluate: Run,
    infer: Run,
    model: Path,
    trained: Path,
    tmp_path: Path,
    checkpoint: str,
    words: list[str],
) -> None:
    file, options = tmp_path / "model.pt", {"channels": 4 if checkpoint == "other" else 2}
    if checkpoint != "absent":
        file.write_bytes(model.read_bytes()[: 20_000 if checkpoint == "truncated" else None])
    if checkpoint == "training":
        file = trained / "models" / "last.pt"
    if checkpoint == "window":
        file = trained / "models" / "model.pt"
        options["intensity#target#low"] = -1000
    scan = demo_manifest.parent / TEST / "mr.nii.gz"
    for command in (lambda: evaluate(demo_manifest, checkpoint=str(file), **options),
                    lambda: infer(scan, checkpoint=str(file), **options)):  # fmt: skip
        text = sentence(command)
        assert [word for word in words if word not in text] == [], text


# --- inference --------------------------------------------------------------------------------------------------------


def picture(folder: Path) -> Path:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "rgb.png")
    return folder / "rgb.png"


def text_file(folder: Path) -> Path:
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda folder: folder, ["holds no volume", ".nii.gz", "DICOM"]),
        (text_file, ["holds no volume", ".nii.gz", "DICOM"]),
        (picture, ["rgb.png is no volume", ".nii.gz", "DICOM"]),
        (lambda folder: folder / "gone.nii.gz", ["gone.nii.gz does not exist"]),
    ],
    ids=["empty folder", "text file", "RGB picture", "missing"],
)
def test_inputs_that_are_no_volumes(
    infer: Run, tmp_path: Path, source: Callable[[Path], Path], words: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    text = sentence(lambda: infer(source(tmp_path / "in")))
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(
    "change",
    [lambda mr: mr[:-1, :-2, :-3], lambda mr: mr[..., None], lambda mr: mr / 1e6],
    ids=["odd sizes", "fourth axis of one", "tiny intensities"],
)
def test_any_volume_comes_back_on_its_grid(
    cohort: Path, infer: Run, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    voxels(TEST, "mr", change)(cohort)
    scan = cohort / TEST / "mr.nii.gz"
    infer(scan)
    written, given = nib.load(tmp_path / "out" / "mr_sct.nii.gz"), nib.load(scan)
    assert written.shape == given.shape[:3]
    np.testing.assert_allclose(written.affine, given.affine, atol=1e-4)


# --- known defects: a test that passes (and then fails as XPASS) says that its mark can go ----------------------------


def test_inputs_whose_results_would_overwrite_each_other(demo_manifest: Path, infer: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "p1").mkdir(parents=True)
    shutil.copy(demo_manifest.parent / TRAIN / "mr.nii.gz", tmp_path / "in" / "p1" / "mr.nii.gz")
    shutil.copy(demo_manifest.parent / TEST / "mr.nii.gz", tmp_path / "in" / "p1_mr.nii.gz")
    text = sentence(lambda: infer(tmp_path / "in"))
    assert "would both be called 'p1_mr'" in text
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_an_inference_on_another_spacing_returns_to_the_grid(
    demo_manifest: Path, infer: Run, model: Path, tmp_path: Path
) -> None:
    scan = demo_manifest.parent / TEST / "mr.nii.gz"
    assert "was trained at spacing_mm = None" in sentence(lambda: infer(scan, spacing_mm=[5, 5, 5]))
    bare = shutil.copy(model, tmp_path / "without_record.pt")
    infer(scan, spacing_mm=[5, 5, 5], checkpoint=str(bare))
    assert nib.load(tmp_path / "out" / "mr_sct.nii.gz").shape == nib.load(scan).shape


def test_one_slice_stays_a_volume(cohort: Path, infer: Run, tmp_path: Path) -> None:
    voxels(TEST, "mr", lambda mr: mr[:, :, 16:17])(cohort)
    scan = cohort / TEST / "mr.nii.gz"
    infer(scan)
    assert nib.load(tmp_path / "out" / "mr_sct.nii.gz").shape == nib.load(scan).shape


def test_a_patient_trained_on_before_a_resume_is_no_test_patient(
    cohort: Path, train: Run, evaluate: Run, tmp_path: Path
) -> None:
    manifest, twin = cohort / "manifest.csv", "P006"
    shutil.copytree(cohort / TRAIN, cohort / twin)
    rows = pd.read_csv(manifest, dtype=str)
    added = rows[:1].replace({TRAIN: twin}).replace({f"^{TRAIN}/": f"{twin}/"}, regex=True).assign(split="test")
    pd.concat([rows, added]).to_csv(manifest, index=False)
    train(manifest)
    both(cell(TRAIN, "split", "test"), cell(twin, "split", "train"))(cohort)

    def resume_and_test() -> None:
        train(manifest, resume=True, epochs=2)
        evaluate(manifest, checkpoint=str(tmp_path / "run" / "models" / "model.pt"))

    assert "patient" in sentence(resume_and_test)


def test_a_training_resumed_to_more_epochs_learns_at_once(
    demo_manifest: Path, train: Run, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    train(demo_manifest, resume=True, epochs=4)
    assert (pd.read_csv(tmp_path / "run" / "history.csv")["lr"] > 0).all()


def test_a_flipped_byte_does_not_enter_a_training(cohort: Path, train: Run) -> None:
    file = cohort / TRAIN / "ct.nii.gz"
    raw = bytearray(file.read_bytes())
    raw[-200] ^= 0xFF
    file.write_bytes(raw)
    assert TRAIN in sentence(lambda: train(cohort / "manifest.csv"))

"""The bundle as its user runs it."""

import json
import shutil
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch

from monai_synth.data.manifest import read_manifest
from monai_synth.metrics.synthrad import score_case
from tests.bundles.conftest import SMALL, RunBundle

EVALUATE = "['configs/train.json','configs/evaluate.json']"


def test_training_leaves_model_checkpoint_history_and_record(trained: Path) -> None:
    assert {"model.pt", "model.json", "last.pt", "previous.pt"} <= {p.name for p in (trained / "models").iterdir()}
    history = pd.read_csv(trained / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert (
        history[["d_real", "d_fake", "g_gan", "g_l1", "lr", "val_mae_hu", "val_psnr_db", "val_ssim"]]
        .notna()
        .all()
        .all()
    )
    record = json.loads((trained / "run.json").read_text())
    assert record["intensity"]["target"] == {"kind": "window", "low": -1024, "high": 2000, "unit": "HU"}
    patients = record["manifest"]["patients"]
    assert not set(patients["train"]) & set(patients["test"])
    assert list((trained / "previews").glob("epoch_*.png"))
    sidecar = json.loads((trained / "models" / "model.json").read_text())
    assert sidecar["value"] == pytest.approx(history["val_mae_hu"].min())


def test_evaluation_scores_the_written_images_on_the_native_grid(evaluated: Path, demo_manifest: Path) -> None:
    cases = pd.read_csv(evaluated / "evaluation" / "cases.csv", dtype={"case_id": str, "patient_id": str})
    test_cases = read_manifest(demo_manifest).part("test").cases(condition="mr", target="ct", mask="mask")
    assert set(cases["method"]) == {"model", "body_as_water", "mean_target_by_condition", "histogram_match"}
    assert set(cases["case_id"]) == {case["case_id"] for case in test_cases}
    for case in test_cases:
        written = nib.load(evaluated / "evaluation" / "predictions" / f"{case['case_id']}.nii.gz")
        target = nib.load(case["target"])
        assert written.get_data_dtype() == np.int16
        np.testing.assert_allclose(written.affine, target.affine, atol=1e-4)
        prediction, reference, mask = (
            np.asarray(image.dataobj).transpose(2, 1, 0) for image in (written, target, nib.load(case["mask"]))
        )
        row = cases[(cases["method"] == "model") & (cases["case_id"] == case["case_id"])].iloc[0]
        # The table is made before rounding to integers for the file.
        assert row["mae_hu"] == pytest.approx(score_case(prediction, reference, mask)["mae_hu"], abs=0.6)
    summary = pd.read_csv(evaluated / "evaluation" / "summary.csv")
    assert {"method", "metric", "unit", "n", "mean", "ci_low", "ci_high"} <= set(summary.columns)


def test_inference_keeps_the_grid_of_nifti_and_dicom(
    run_bundle: RunBundle, trained: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    case = read_manifest(demo_manifest).part("test").cases(condition="mr")[0]
    sources = tmp_path / "in"
    (sources / "series").mkdir(parents=True)
    shutil.copy(case["condition"], sources / "scan.nii.gz")
    image = sitk.ReadImage(case["condition"])
    _write_dicom_series(image, sources / "series")
    model = ["--checkpoint", str(trained / "models" / "model.pt"), "--channels", "8"]
    out = tmp_path / "out"
    run_bundle(
        "run", "--config_file", "configs/inference.json", "--input", str(sources), "--output_dir", str(out), *model
    )

    source = nib.load(case["condition"])
    nifti, dicom = (nib.load(out / f"{name}_sct.nii.gz") for name in ("scan", "series"))
    assert nifti.get_data_dtype() == dicom.get_data_dtype() == np.int16
    assert nifti.shape == source.shape
    np.testing.assert_allclose(nifti.affine, source.affine, atol=1e-4)
    # The series has the same voxels in the same places, perhaps with axes flipped.
    a, b = (np.asarray(nib.as_closest_canonical(volume).dataobj, dtype=float) for volume in (nifti, dicom))
    assert a.shape == b.shape
    assert np.abs(a - b).mean() < 1.0


def _write_dicom_series(image: sitk.Image, folder: Path) -> None:
    """An MR series without rescaling, one file a slice."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    orientation = "\\".join(str(direction[i]) for i in (0, 3, 6, 1, 4, 7))
    for index in range(image.GetDepth()):
        plane = image[:, :, index]
        position = image.TransformIndexToPhysicalPoint((0, 0, index))
        for tag, value in {
            "0008|0060": "MR",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{index + 1}",
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(str(x) for x in position),
            "0020|0037": orientation,
        }.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index:03d}.dcm"))
        writer.Execute(plane)


def test_resume_continues_to_more_epochs(
    run_bundle: RunBundle, trained: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    options = [
        "--manifest",
        str(demo_manifest),
        "--output_dir",
        str(out),
        *SMALL[:-4],
        "--epochs",
        "3",
        "--val_interval",
        "1",
    ]
    refused = run_bundle("run", "training", "--config_file", "configs/train.json", *options, check=False)
    assert refused.returncode != 0
    assert "--resume true" in refused.stderr
    run_bundle("run", "training", "--config_file", "configs/train.json", *options, "--resume", "true")
    history = pd.read_csv(out / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3]


def test_two_processes_end_with_the_same_weights(run_bundle: RunBundle, demo_manifest: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "dump.json"
    dump = "$torch.save(@network.module.state_dict(), @output_dir + f'/rank{idist.get_rank()}.pt')"
    overlay.write_text(json.dumps({"+run": [dump]}))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    configs = f"['configs/train.json','configs/multi_gpu_train.json','{overlay}']"
    options = ["--manifest", str(demo_manifest), "--output_dir", str(tmp_path), *SMALL]
    run_bundle("run", "training", "--config_file", configs, *options, launcher=launcher)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert history["val_mae_hu"].notna().all()


def test_a_model_is_not_tested_on_its_own_patients(
    run_bundle: RunBundle, trained: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(demo_manifest, dtype=str)
    table["split"] = table["split"].map({"train": "test", "test": "train", "val": "val"})
    swapped = demo_manifest.with_name("swapped.csv")
    table.to_csv(swapped, index=False)
    options = ["--manifest", str(swapped), "--output_dir", str(tmp_path), "--ckpt_dir", str(trained / "models"), *SMALL]
    result = run_bundle("run", "evaluating", "--config_file", EVALUATE, *options, check=False)
    assert result.returncode != 0
    assert "belonged to the model's 'train' patients" in result.stderr


def test_another_window_than_the_trained_one_is_refused(
    run_bundle: RunBundle, trained: Path, demo_manifest: Path
) -> None:
    case = read_manifest(demo_manifest).part("test").cases(condition="mr")[0]
    options = ["--input", case["condition"], "--checkpoint", str(trained / "models" / "model.pt"), "--channels", "8"]
    result = run_bundle(
        "run", "--config_file", "configs/inference.json", *options, "--intensity#target#high", "3000", check=False
    )
    assert result.returncode != 0
    assert "was trained with target" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--roles#condition", "t1"], "Role 't1' is not a column"),
        (["--manifest", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_input_that_cannot_work_is_named(
    run_bundle: RunBundle, demo_manifest: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    given = ["--manifest", str(demo_manifest), "--output_dir", str(tmp_path), *SMALL, *options]
    result = run_bundle("run", "training", "--config_file", "configs/train.json", *given, check=False)
    assert result.returncode != 0
    assert message in result.stderr


def test_metadata_follows_the_schema_and_says_what_the_configs_do(bundle: Path) -> None:
    schema = Path(__file__).parent / "meta_schema_20240725.json"
    monai.bundle.verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    for name in ("train.json", "inference.json"):
        config = json.loads((bundle / "configs" / name).read_text())
        for key, contract in metadata["intensity_contract"].items():
            given = {k: v for k, v in config["intensity"][key].items() if k != "_target_"}
            assert given.items() <= contract.items(), (name, key)


def test_network_accepts_what_the_metadata_says(bundle: Path) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        channels=4,
        device="cpu",
    )


def test_torchscript_export_computes_the_same(bundle: Path, trained: Path, tmp_path: Path) -> None:
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        channels=8,
    )
    from monai_synth.checkpoints import load_weights
    from monai_synth.networks import UNetGenerator

    network = UNetGenerator(channels=8, num_downs=6)
    load_weights(network, trained / "models" / "model.pt")
    exported = torch.jit.load(str(tmp_path / "model.ts"))
    x = torch.rand(1, 1, 64, 128) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(exported.eval()(x), network.eval()(x), atol=1e-4, rtol=0)


def test_weights_load_into_another_monai_project(bundle: Path, trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle / "configs", copy / "configs")
    shutil.copytree(trained / "models", copy / "models")
    network = monai.bundle.load(
        bundle.name, bundle_dir=str(tmp_path), workflow_type="inference", net_override={"channels": 8}, source="github"
    )
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(("file", "workflow"), [("train.json", "train"), ("inference.json", "inference")])
def test_required_properties_are_there(
    bundle: Path, demo_manifest: Path, file: str, workflow: str, tmp_path: Path
) -> None:
    options = {"manifest": str(demo_manifest), "channels": 4, "output_dir": str(tmp_path), "device": "cpu"}
    if workflow == "inference":
        options = {"input": str(demo_manifest.parent), "channels": 4}
    created = monai.bundle.create_workflow(
        config_file=str(bundle / "configs" / file),
        workflow_type=workflow,
        bundle_root=str(bundle),
        logging_file=False,
        **options,
    )
    assert created.check_properties() == []

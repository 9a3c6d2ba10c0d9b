"""MR to CT without pairs, on very small phantoms: a resume and two processes by the commands of its README."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import verify_metadata

from monai_synth.data.manifest import read_manifest
from monai_synth.errors import SynthError
from monai_synth.metrics.synthrad import score_case
from tests.bundles.conftest import run_in

NETWORK = ["--channels", "4", "--num_blocks", "2"]
SMALL = [*NETWORK, "--patch_size", "[32,32]", "--num_patches", "16", "--batch_size", "4", "--val_interval", "1"]
TRAIN = ["run", "training", "--config_file", "configs/train.json"]
TINY = {"channels": 4, "num_blocks": 2, "patch_size": [32, 32], "num_patches": 16, "batch_size": 4, "val_interval": 1}
UNPAIRED = {
    "roles": {"condition": "mr", "target": "ct"},
    "paired_validation": "false",
    "fast": "true",
    "spacing_mm": [7.0, 7.0, 6.0],
}
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "bundles" / "mr_to_ct_cut"


@pytest.fixture(scope="module")
def run_here(folder: Path) -> Iterator[Run]:
    """``monai.bundle run`` without the seconds that a new process takes to import everything."""
    hook = sys.excepthook

    def run(run_id: str, *names: str, **options: Any) -> Any:
        files = [str(folder / "configs" / f"{name}.json") for name in names]
        workflow = monai.bundle.create_workflow(
            config_file=files, workflow_type="train", run_id=run_id, logging_file=False, **options
        )
        workflow.run()
        return workflow

    yield run
    sys.excepthook = hook


@pytest.fixture(scope="module")
def trained(run_here: Run, demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cut")
    run_here("training", "train", manifest=str(demo_manifest), output_dir=str(out), **TINY, epochs=1)
    return out


@pytest.fixture(scope="module")
def unpaired(demo_manifest: Path) -> Path:
    """A cohort in which everyone has an MR or a CT, nobody both, and there are no masks."""
    table = pd.read_csv(demo_manifest, dtype=str).drop(columns=["mask"])
    table["split"] = ["train", "val", "val", "test", "test"]
    sides = [
        table.assign(**{other: "", "patient_id": table["patient_id"] + role, "case_id": table["case_id"] + role})
        for role, other in (("mr", "ct"), ("ct", "mr"))
    ]
    file = demo_manifest.with_name("unpaired.csv")
    pd.concat(sides).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def trained_unpaired(folder: Path, unpaired: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training on two processes, which leave the weights of all players at the end."""
    out = tmp_path_factory.mktemp("unpaired")
    players = "[player.module.state_dict() for player in (@network, @sampler, @discriminator)]"
    overlay = out / "dump.json"
    overlay.write_text(json.dumps({"+run": [f"$torch.save({players}, @output_dir + f'/rank{{idist.get_rank()}}.pt')"]}))
    configs = f"['configs/train.json','configs/multi_gpu_train.json','{overlay}']"
    train = ["run", "training", "--config_file", configs, "--manifest", str(unpaired), "--output_dir", str(out)]
    options = [text for name, value in UNPAIRED.items() for text in (f"--{name}", str(value))]
    run_in(
        folder,
        *train,
        *SMALL,
        *options,
        "--epochs",
        "1",
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    )
    return out


def test_training_leaves_a_model_and_all_that_a_resume_needs(trained: Path) -> None:
    record = json.loads((trained / "models" / "model.json").read_text())
    assert record["name"] == "mr_to_ct_cut"
    assert record["metric"] == "mae_hu"
    settings = record["settings"]
    assert settings["nce_layers"] == [0, 4, 8, 12, 13]
    assert (settings["key_metric"], settings["remove_table"], settings["paired_validation"]) == ("mae_hu", True, True)
    history = pd.read_csv(trained / "history.csv")
    terms = ["d_real", "d_fake", "g_gan", "g_nce", "g_nce_identity", "val_mae_hu"]
    assert history[terms].notna().all().all()
    assert list((trained / "previews").glob("*.png"))
    parts = torch.load(trained / "models" / "last.pt", weights_only=True)["parts"]
    # Instance norms have no weights and nothing else is kept: all of both networks is trained.
    assert len(parts["generator_optimizer"]["state"]) == len(parts["generator"]) + len(parts["sampler"])
    assert len(parts["sampler"]) == 5 * 4


def test_resume_goes_on_with_the_next_epoch(folder: Path, trained: Path, demo_manifest: Path) -> None:
    given = ["--manifest", str(demo_manifest), "--output_dir", str(trained), *SMALL, "--epochs", "2"]
    before = torch.load(trained / "models" / "last.pt", weights_only=True)["parts"]["sampler"]
    run_in(folder, *TRAIN, *given, "--resume", "true")
    assert list(pd.read_csv(trained / "history.csv")["epoch"]) == [1, 2]
    after = torch.load(trained / "models" / "last.pt", weights_only=True)["parts"]["sampler"]
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_evaluation_scores_pairs_next_to_baselines(
    run_here: Run, trained: Path, demo_manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"manifest": str(demo_manifest), "output_dir": str(trained), **TINY, "key_metric": "psnr_db"}
    run_here("evaluating", "train", "evaluate", **given)
    assert "evaluating: 1 of 1 cases, which have 'mr', 'ct', 'mask'" in capsys.readouterr().out
    assert json.loads((trained / "evaluation" / "evaluation.json").read_text())["key_metric"] == "psnr_db"
    scores = pd.read_csv(trained / "evaluation" / "cases.csv", dtype={"case_id": str})
    assert set(scores["method"]) == {"model", "body_as_water", "mean_target_by_condition", "histogram_match"}
    case = read_manifest(demo_manifest).part("test").cases(condition="mr", target="ct", mask="mask")[0]
    written = trained / "evaluation" / "predictions" / f"{case['case_id']}.nii.gz"
    volumes = [
        np.asarray(nibabel.load(file).dataobj).transpose(2, 1, 0) for file in (written, case["target"], case["mask"])
    ]
    row = scores[(scores["method"] == "model") & (scores["case_id"] == case["case_id"])].iloc[0]
    # What is scored is what is written: whole HU.
    assert row["mae_hu"] == pytest.approx(score_case(*volumes)["mae_hu"], abs=1e-3)


def test_inference_gives_hu_on_the_grid_of_the_mr(
    run_here: Run, trained: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    scan = read_manifest(demo_manifest).part("test").cases(image="mr")[0]["image"]
    given = {"input": str(scan), "output_dir": str(tmp_path), "checkpoint": str(trained / "models" / "model.pt")}
    run_here("run", "inference", **given, channels=4, num_blocks=2)
    (file,) = tmp_path.glob("*_sct.nii.gz")
    image, source = nibabel.load(file), nibabel.load(scan)
    assert image.get_data_dtype() == np.int16
    assert image.shape == source.shape
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
    values = np.asarray(image.dataobj)
    assert -1024 <= values.min() < values.max() <= 2000


def test_a_cohort_without_pairs_and_masks_is_judged_by_texture(
    run_here: Run, unpaired: Path, trained_unpaired: Path
) -> None:
    history = pd.read_csv(trained_unpaired / "history.csv")
    assert history["val_texture_kid"].notna().all()
    assert "g_nce_identity" not in history  # FastCUT
    record = json.loads((trained_unpaired / "models" / "model.json").read_text())
    assert record["metric"] == "texture_kid"
    assert record["settings"]["lambda_nce"] == 10
    assert list((trained_unpaired / "previews").glob("*.png"))

    assert record["settings"]["paired_validation"] is False

    given = {"manifest": str(unpaired), "output_dir": str(trained_unpaired), **TINY, **UNPAIRED}
    evaluator = run_here("evaluating", "train", "evaluate", **given).parser.get_parsed_content("validate#evaluator")
    # Written on the grid of the MR, judged where the network works.
    (item,) = evaluator.state.output
    case = {case["case_id"]: case for case in read_manifest(unpaired).with_roles("mr").cases(mr="mr")}[item["case_id"]]
    np.testing.assert_allclose(item["pred"].affine, nibabel.load(case["mr"]).affine, atol=1e-4)
    np.testing.assert_allclose(item["prepared_pred"].pixdim, [7, 7, 6], rtol=1e-3)
    summary = pd.read_csv(trained_unpaired / "evaluation" / "summary.csv")
    assert list(summary["metric"]) == ["texture_kid"]
    assert summary["n"].item() == len(list((trained_unpaired / "evaluation" / "predictions").iterdir())) == 2


def test_two_processes_end_with_the_same_weights(trained_unpaired: Path) -> None:
    first, second = (torch.load(trained_unpaired / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def enlarged(cohort: Path, folder: Path) -> Path:
    """The same cohort with CT that claim pixels of another size."""
    table = pd.read_csv(cohort, dtype=str)
    for row in table.dropna(subset=["ct"]).index:
        image = nibabel.load(cohort.parent / table.loc[row, "ct"])
        table.loc[row, "ct"] = f"ct_{row}.nii.gz"
        nibabel.save(
            nibabel.Nifti1Image(image.dataobj, image.affine @ np.diag([1.5, 1.5, 1.5, 1])), folder / f"ct_{row}.nii.gz"
        )
    for row in table.dropna(subset=["mr"]).index:
        shutil.copy(cohort.parent / table.loc[row, "mr"], folder / f"mr_{row}.nii.gz")
        table.loc[row, "mr"] = f"mr_{row}.nii.gz"
    table.to_csv(folder / "enlarged.csv", index=False)
    return folder / "enlarged.csv"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"paired_validation": "true"}, r"validating: none of the 4 cases.*'mr', 'ct'.*--paired_validation false"),
        ({"key_metric": "mae_hu"}, r"'mae_hu' is not computed by this validation; there is texture_kid"),
        ({"spacing_mm": None}, r"'mr' 6.06 x 6.32 mm.*'ct' 9.09 x 9.48 mm.*--spacing_mm .\[9.09, 9.48, 7.54\]"),
    ],
    ids=["no pairs to validate on", "a metric of pairs", "pixels of two sizes"],
)
def test_a_training_that_would_fail_late_does_not_start(
    run_here: Run, unpaired: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    cohort = enlarged(unpaired, tmp_path) if "spacing_mm" in options else unpaired
    with pytest.raises(RuntimeError) as caught:
        run_here("training", "train", manifest=str(cohort), output_dir=str(tmp_path), **TINY, **{**UNPAIRED, **options})
    error: BaseException | None = caught.value
    while not isinstance(error, SynthError):
        assert error is not None
        error = error.__cause__ or error.__context__
    assert re.search(sentence, str(error)), error
    assert not (tmp_path / "history.csv").exists()


def test_a_score_that_is_better_when_higher_is_taken_so(folder: Path, demo_manifest: Path, tmp_path: Path) -> None:
    parser = monai.bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    parser.update({"manifest": str(demo_manifest), "output_dir": str(tmp_path), **TINY, "key_metric": "ms_ssim"})
    parser.update({"validate#key_metric#mae_hu#preset": "synthrad2025"})
    assert parser.get_parsed_content("validate#best").is_higher_better
    assert parser.get_parsed_content("train#early_stop").is_higher_better


def test_texture_is_compared_on_one_grid_with_the_air_of_the_window(
    folder: Path, unpaired: Path, tmp_path: Path
) -> None:
    parser = monai.bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    parser.update({"manifest": str(unpaired), "output_dir": str(tmp_path), **TINY, **UNPAIRED})
    parser.update({"intensity#target#low": -900})
    target = parser.get_parsed_content("validate#reference")[0]["target"]
    np.testing.assert_allclose(target.pixdim, [7, 7, 6], rtol=1e-3)
    assert nibabel.aff2axcodes(target.affine) == ("R", "A", "S")
    assert target.min().item() == pytest.approx(-900, abs=1e-2)
    assert target.max().item() > 500


@pytest.mark.parametrize("separate", [False, True])
def test_no_condition_meets_a_target_of_its_patient(
    folder: Path, demo_manifest: Path, tmp_path: Path, separate: bool
) -> None:
    workflow = monai.bundle.create_workflow(
        config_file=str(folder / "configs" / "train.json"),
        workflow_type="train",
        bundle_root=str(folder),
        logging_file=False,
        manifest=str(demo_manifest),
        output_dir=str(tmp_path),
        channels=4,
        num_blocks=2,
        patch_size=[32, 32],
        separate_patients=str(separate).lower(),
        device="cpu",
    )
    assert workflow.check_properties() == []
    dataset = workflow.parser.get_parsed_content("train#dataset")
    conditions, targets = set(), set()
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        for item in dataset:
            assert item["patient_id"] != item["target_patient_id"]
            assert item["condition"].shape == item["target"].shape == (1, 32, 32)
            conditions.add(item["patient_id"])
            targets.add(item["target_patient_id"])
    assert conditions | targets == read_manifest(demo_manifest).part("train").patients
    assert bool(conditions & targets) is not separate


def test_published_networks_are_built(folder: Path) -> None:
    from monai_synth.networks import registry

    parser = monai.bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    grey = {"in_channels": 1, "out_channels": 1}
    published = {
        "network_def": registry.build("cut_resnet", **grey),
        "discriminator_def": registry.build("cut_patchgan", in_channels=1),
        "sampler_def": registry.build("cut_patch_sampler", in_channels=[1, 128, 256, 256, 256]),
    }
    for name, network in published.items():
        built = parser.get_parsed_content(name)
        shapes = {key: value.shape for key, value in built.state_dict().items()}
        assert shapes == {key: value.shape for key, value in network.state_dict().items()}
    assert parser.get_parsed_content("nce_layers") == [0, 4, 8, 12, 16]


def test_the_sampler_fits_any_layers_of_the_encoder(folder: Path) -> None:
    parser = monai.bundle.ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    layers = list(range(14))
    parser.update({"channels": 2, "num_blocks": 2, "nce_layers": layers})
    network, sampler = (parser.get_parsed_content(name) for name in ("network_def", "sampler_def"))
    features = network.encode(torch.zeros(1, 1, 16, 16), layers)
    assert sampler.in_channels == [feature.shape[1] for feature in features]


def test_metadata_follows_the_schema_and_says_what_the_configs_do(folder: Path) -> None:
    verify_metadata(
        meta_file=str(folder / "configs" / "metadata.json"),
        filepath=str(Path(__file__).with_name("meta_schema_20240725.json")),
    )
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="ascii"))
    for name in ("train.json", "inference.json"):
        config = json.loads((folder / "configs" / name).read_text())
        for key, contract in metadata["intensity_contract"].items():
            given = {k: v for k, v in config["intensity"][key].items() if k != "_target_"}
            assert given.items() <= contract.items(), (name, key)


def test_network_accepts_what_the_metadata_says(folder: Path) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.json"),
        channels=2,
        device="cpu",
    )

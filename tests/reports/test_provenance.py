from monai_synth.reports.provenance import (
    bins_words,
    intensity_words,
    mask_words,
    network_words,
    preset_words,
    provenance,
    scores_words,
)
from monai_synth.reports.run_folder import read_run


def test_facts_of_a_run_in_words(make_run):
    facts = dict(provenance(read_run(make_run(shape=(21, 19, 1)))))
    assert facts["Patients"][0] == "train: 8 patients, 8 cases (T00, T01, T02, T03, T04, T05, T06, T07)"
    assert facts["Task"] == ["condition: mr → target: ct, mask: mask"]
    assert facts["Networks"][0] == "generator: UNetGenerator, 13.02 million parameters"
    assert facts["Intensities"][1] == "target: −1024 to 2000 HU maps linearly to −1 to 1; values outside are clipped"
    assert facts["Seed, precision"] == ["seed 0, trained in fp32, on cpu, 1 process", "evaluated in fp32"]
    assert facts["Checkpoint"] == ["models/model.pt, epoch 35"]
    assert "monai 1.6.1" in facts["Versions"][0]


def test_what_is_not_recorded_says_so(make_run):
    folder = make_run(shape=(21, 19, 1))
    (folder / "run.json").write_text('{"name": "x", "intensity": null}')
    facts = dict(provenance(read_run(folder)))
    for label in ("Manifest", "Patients", "Task", "Intensities", "Networks", "Versions"):
        assert facts[label] == ["not recorded"]
    assert facts["Seed, precision"] == ["evaluated in fp32"]


def test_each_intensity_contract_has_its_sentence():
    assert intensity_words({"kind": "percentiles", "lower": 0.5, "upper": 99.5, "unit": "a.u."}).startswith(
        "percentile 0.5 to 99.5 of each image (a.u.)"
    )
    assert intensity_words({"kind": "zscore", "num_std": 3.0, "unit": "a.u."}).startswith(
        "mean ± 3 standard deviations"
    )
    assert intensity_words({"kind": "new", "x": -2}) == "kind = new, x = −2"


def test_words_for_mask_bins_presets_and_networks():
    assert "column 'body'" in mask_words({"mask": "body"})
    assert "no mask" in mask_words({"condition": "mr"})
    bins = {"air": [None, -300], "soft_tissue": [-300, 200], "bone": [200, None]}
    assert bins_words(bins) == "air: below −300 HU; soft tissue: −300 to 200 HU; bone: from 200 HU"
    assert bins_words(None) == ""
    assert "4024 HU" in preset_words("synthrad2023")
    assert "MS-SSIM" in preset_words("synthrad2025")
    assert "mine" in preset_words("mine")
    assert network_words("generator", {"class": "X"}) == "generator: X, size not recorded"


def test_a_distance_says_what_its_zero_is_worth():
    def words(**about):
        return scores_words({"distribution": {"texture_kid": {"num_images": 9, "num_reference": 40, **about}}})

    assert "Values around 0, also below, mean no difference" in words(num_shared_patients=0)
    copied = words(num_shared_patients=3)
    assert "3 of the evaluated patients are in that set" in copied
    assert "no zero" in copied
    assert "around 0" not in copied
    assert "beside that of real images" in words()

"""What was trained on what, in words: one labelled line per fact of ``run.json``."""

from collections.abc import Sequence
from typing import Any

from monai_synth.reports.quantities import MINUS, quantity
from monai_synth.reports.run_folder import RunFolder

MAX_PATIENTS = 40
NOT_RECORDED = "not recorded"


def provenance(run: RunFolder) -> list[tuple[str, list[str]]]:
    """Facts of a run as (label, lines), in reading order; a fact that is not recorded says so."""
    record = run.run
    manifest, roles = record.get("manifest") or {}, record.get("roles") or {}
    facts: list[tuple[str, list[str]]] = [
        ("Manifest", _manifest(manifest)),
        ("Patients", _patients(manifest)),
        ("Task", [_task(roles)]),
        ("Intensities", [f"{role}: {intensity_words(what)}" for role, what in (record.get("intensity") or {}).items()]),
        ("Networks", [network_words(role, what) for role, what in (record.get("networks") or {}).items()]),
        ("Training", [_settings(record.get("training") or {})]),
        ("Checkpoint", [_checkpoint(run)]),
        ("Seed, precision", [_machine(record), _evaluation_precision(run)]),
        ("Versions", [", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())]),
        ("Created", [str(record.get("created") or "")]),
    ]
    return [(label, [line for line in lines if line] or [NOT_RECORDED]) for label, lines in facts]


def checkpoint_epoch(run: RunFolder) -> int | None:
    """Epoch of the evaluated checkpoint, else of the best one; ``None`` when neither is recorded."""
    for record in (run.evaluation, run.checkpoint):
        if isinstance(record.get("epoch"), int):
            return int(record["epoch"])
    return None


def intensity_words(contract: Any) -> str:
    """An intensity contract (``to_dict`` of monai_synth.data.intensity) as a sentence."""
    if not isinstance(contract, dict):
        return NOT_RECORDED
    unit, kind = contract.get("unit", ""), contract.get("kind")
    ending = f"maps linearly to {MINUS}1 to 1; values outside are clipped"
    if kind == "window" and {"low", "high"} <= contract.keys():
        return f"{plain(contract['low'])} to {plain(contract['high'])} {unit} {ending}"
    if kind == "percentiles" and {"lower", "upper"} <= contract.keys():
        span = f"percentile {plain(contract['lower'])} to {plain(contract['upper'])} of each image ({unit})"
        return f"{span} {ending}"
    if kind == "zscore" and "num_std" in contract:
        return (
            f"mean \N{PLUS-MINUS SIGN} {plain(contract['num_std'])} standard deviations of each image ({unit}) {ending}"
        )
    return ", ".join(f"{name} = {plain(value)}" for name, value in contract.items())


def network_words(role: str, network: Any) -> str:
    """Class and size of a network: ``generator: UNetGenerator, 13.0 million parameters``."""
    if not isinstance(network, dict):
        return f"{role}: {network}"
    count = network.get("parameters")
    size = f"{count / 1e6:.2f} million parameters" if isinstance(count, int) else "size not recorded"
    return f"{role}: {network.get('class', 'class not recorded')}, {size}"


def mask_words(roles: dict[str, Any], evaluation: dict[str, Any] | None = None) -> str:
    """What the mask of the metrics is; ``evaluation`` says whether they used it."""
    if "scored_inside" in (evaluation or {}) and not (evaluation or {})["scored_inside"]:
        return "every pixel of the image"
    if roles.get("mask"):
        return f"only voxels inside the mask: where the image of manifest column '{roles['mask']}' is not 0"
    if roles:
        return "every voxel of the image: this run has no mask"
    return "voxels inside the mask that the run names (unknown here, for run.json does not say)"


def bins_words(bins: Any) -> str:
    """Limits of the HU bins of ``evaluation.json``; empty text when there are none."""
    if not isinstance(bins, dict):
        return ""
    parts = []
    for name, limits in bins.items():
        if not isinstance(limits, Sequence) or len(limits) != 2:
            continue
        low, high = limits
        if low is None:
            words = f"below {plain(high)} HU"
        elif high is None:
            words = f"from {plain(low)} HU"
        else:
            words = f"{plain(low)} to {plain(high)} HU"
        parts.append(f"{str(name).replace('_', ' ')}: {words}")
    return "; ".join(parts)


def preset_words(preset: str | None) -> str:
    """Definition behind a preset's name, as far as it is known here."""
    if not preset:
        return "The preset of the metrics is not recorded."
    if preset == "synthrad2023":
        rule = (
            f"MAE unclipped; PSNR after clipping to {MINUS}1024 to 3000 HU, range 4024 HU; "
            "SSIM with a uniform window of 7 voxels per axis, averaged inside the mask"
        )
    elif preset.startswith("synthrad2025"):
        rule = "MAE unclipped; PSNR after clipping, range fixed by the preset; MS-SSIM over five scales inside the mask"
    else:
        return f"Preset {preset}."
    return f"Preset {preset}: {rule}."


def scores_words(evaluation: dict[str, Any]) -> str:
    """Definition of the metrics of ``evaluation.json``, as far as it is recorded and known here."""
    parts = []
    if evaluation.get("preset") or not (evaluation.get("distribution") or "data_range" in evaluation):
        parts.append(preset_words(evaluation.get("preset")))
    if "data_range" in evaluation:
        window = (evaluation.get("ssim") or {}).get("window")
        size = f"; SSIM with a Gaussian window of {window} pixels" if window else ""
        span = f"{plain(evaluation['data_range'])} {evaluation.get('unit', '')}"
        parts.append(f"PSNR and SSIM for a range of {span}{size}.")
    for metric, about in (evaluation.get("distribution") or {}).items():
        parts.append(_distribution_words(metric, about if isinstance(about, dict) else {}))
    return " ".join(parts)


def _distribution_words(metric: str, about: dict[str, Any]) -> str:
    """How a distance between sets came about: features, kernel and numbers of images."""
    label = quantity(metric).label
    what = f"{label[:1].upper()}{label[1:]}: distance between all predictions and a set of real images"
    counts = [
        f"{about[key]} {words}"
        for key, words in (("num_images", "predictions"), ("num_reference", "real images"))
        if about.get(key) is not None
    ]
    what += f" ({', '.join(counts)})" if counts else ""
    if about.get("extractor"):
        features = f"{about['num_features']} " if about.get("num_features") else ""
        what += f" by {features}features of {about['extractor']}"
    what += f"; {about['kernel']}" if about.get("kernel") else ""
    what += "; its interval by a jackknife over patients"
    if shared := about.get("num_shared_patients"):
        count = f"{shared} of the evaluated patients {'is' if shared == 1 else 'are'}"
        reading = f"{count} in that set, which rewards a copy of their image: the value orders models, it has no zero"
    elif shared == 0:
        reading = "Values around 0, also below, mean no difference"
    else:
        reading = "Values are read beside that of real images, where it was computed"
    return f"{what}. {reading}; values by other features are not comparable."


def plain(value: Any) -> str:
    """A number without needless digits and with a true minus sign; any other value as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.10g}".replace("-", MINUS)


def _manifest(manifest: dict[str, Any]) -> list[str]:
    checksum = manifest.get("sha256")
    return [str(manifest.get("file") or ""), f"sha256 {checksum}" if checksum else ""]


def _patients(manifest: dict[str, Any]) -> list[str]:
    lines = []
    for split, names in (manifest.get("patients") or {}).items():
        cases = (manifest.get("cases") or {}).get(split)
        shown = ", ".join(str(name) for name in names[:MAX_PATIENTS])
        more = f" and {len(names) - MAX_PATIENTS} more (all in run.json)" if len(names) > MAX_PATIENTS else ""
        count = f"{len(names)} {'patient' if len(names) == 1 else 'patients'}"
        if cases is not None:
            count += f", {cases} {'case' if cases == 1 else 'cases'}"
        lines.append(f"{split}: {count}" + (f" ({shown}{more})" if names else ""))
    return lines


def _task(roles: dict[str, Any]) -> str:
    def words(role: str) -> str:
        value = roles.get(role)
        return " + ".join(map(str, value)) if isinstance(value, list) else str(value)

    if not roles.get("condition"):
        return ""
    if not roles.get("target"):
        return f"condition: {words('condition')}, no target"
    mask = f", mask: {words('mask')}" if roles.get("mask") else ", no mask"
    return f"condition: {words('condition')} \N{RIGHTWARDS ARROW} target: {words('target')}{mask}"


def _settings(training: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in training.items())


def _setting(value: Any) -> str:
    """One value; the same value for every player is written once."""
    if isinstance(value, dict):
        if len(set(value.values())) == 1:
            return plain(next(iter(value.values())))
        return ", ".join(f"{plain(one)} ({name})" for name, one in value.items())
    return plain(value)


def _checkpoint(run: RunFolder) -> str:
    epoch = checkpoint_epoch(run)
    file = run.evaluation.get("checkpoint") or (
        "models/model.pt" if (run.path / "models" / "model.pt").is_file() else ""
    )
    if not file and epoch is None:
        return ""
    return f"{file or 'file not recorded'}, epoch {'not recorded' if epoch is None else epoch}"


def _evaluation_precision(run: RunFolder) -> str:
    precision = run.evaluation.get("precision")
    return f"evaluated in {precision}" if precision else ""


def _machine(record: dict[str, Any]) -> str:
    parts = []
    if record.get("seed") is not None:
        parts.append(f"seed {record['seed']}")
    if record.get("precision"):
        parts.append(f"trained in {record['precision']}")
    if record.get("device"):
        parts.append(f"on {record['device']}")
    if record.get("world_size"):
        parts.append(f"{record['world_size']} process" + ("es" if record["world_size"] != 1 else ""))
    return ", ".join(parts)

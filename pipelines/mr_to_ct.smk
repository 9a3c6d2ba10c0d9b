"""Cross validation of an MR to CT bundle: every patient is scored once, by a model not trained on that patient.

manifest check -> manifest split -> per fold: training, evaluation, report -> one table over all folds.
Only public commands run here; pipelines/README.md says how to start this and how to read the result.
"""

import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

KEYS = {"manifest", "data_root", "out", "num_folds", "seed", "bundle", "options", "resources"}
SET_HERE = {
    *("config_file", "manifest", "training_manifest", "dataset_dir", "fold", "split", "seed"),
    *("output_dir", "ckpt_dir", "checkpoint", "evaluation_dir", "resume", "overwrite"),
}
# Not a `run:` block: Snakemake passes --config on to those in a way that breaks quotation marks in its values.
POOL = """
import sys
import pandas as pd
from monai_synth.data import read_manifest
from monai_synth.errors import ConfigError
from monai_synth.statistics import bootstrap_mean, format_interval, summarise, unit_of, values_by_patient

folds, data_root, cases, summary, *files = sys.argv[1:]
# A converter keeps an id such as 000 or NA as it is written.
tables = [pd.read_csv(file, converters={"patient_id": str, "case_id": str}) for file in files]
for fold, part in enumerate(tables):
    part.insert(3, "fold", fold)
table = pd.concat(tables, ignore_index=True)
cohort = read_manifest(folds, data_root=data_root).table.dropna(subset=["fold"])
expected = sorted(zip(cohort["case_id"], cohort["fold"].astype(int)))
for method, rows in table.groupby("method"):
    if sorted(zip(rows["case_id"], rows["fold"])) != expected:
        raise ConfigError(
            f"{method} was scored {len(rows)} times, not once on each of the {len(expected)} cases of {folds} in its "
            "own fold. Evaluate again with --forcerun evaluate."
        )
table.to_csv(cases, index=False)
summarise(table).to_csv(summary, index=False)
for method in table["method"].unique():
    interval = bootstrap_mean(values_by_patient(table, "mae_hu", method=method))
    print(f"{method}: {format_interval(interval, name='mae_hu', unit=unit_of('mae_hu'))}")
"""
CONFIGS = {"train": "configs/train.json", "evaluate": "['configs/train.json','configs/evaluate.json']"}


def required(key):
    if not config.get(key):
        raise WorkflowError(f"The configuration has no {key!r}. Give it with --config {key}=... or in a --configfile.")
    return str(config[key])


def bundle_options():
    """The words of ``options``, without those that the workflow itself sets."""
    given = config.get("options") or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise WorkflowError(f"options is {given!r}; it is a list of texts, such as ['--epochs 30', '--channels 32'].")
    words = [word for text in given for word in shlex.split(text)]
    names = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in words if word.startswith("-")}
    if taken := sorted(names & SET_HERE):
        raise WorkflowError(f"options holds --{taken[0]}, which the workflow sets itself. Remove it from options.")
    return words


def whole_number(key, default, *, least):
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WorkflowError(f"{key} is {value!r}; it is a whole number of at least {least}.")
    return value


def job_resources():
    """Threads, and everything else that Snakemake counts, of a training and of an evaluation."""
    given = config.get("resources") or {}
    if not isinstance(given, dict):
        raise WorkflowError(f"resources is {given!r}; it is a mapping such as {{threads: 4, gpu: 1, mem_mb: 16000}}.")
    # Numbers inside a mapping that comes by --config arrive as text.
    numbers = {key: int(value) if str(value).isdecimal() else value for key, value in given.items()}
    resources = {"threads": 2, "gpu": 1} | numbers
    return resources.pop("threads"), resources


if unknown := sorted(set(config) - KEYS):
    raise WorkflowError(f"The configuration has {unknown[0]!r}, but its keys are {', '.join(sorted(KEYS))}. Rename it.")

MANIFEST = required("manifest")
OUT = required("out")
DATA_ROOT = os.path.abspath(config.get("data_root") or os.path.dirname(os.path.abspath(MANIFEST)))
BUNDLE = os.path.abspath(config.get("bundle") or Path(workflow.basedir).parent / "bundles" / "mr_to_ct_pix2pix")
NUM_FOLDS = whole_number("num_folds", 5, least=2)
SEED = whole_number("seed", 0, least=0)
OPTIONS = bundle_options()
THREADS, RESOURCES = job_resources()

FOLDS = f"{OUT}/folds.csv"
RUN_DIR = f"{OUT}/fold_{{fold}}"
# Snakemake's shell has pipefail on: a command that fails makes its job fail although `tee` behind it succeeds.
PYTHON = f"{shlex.quote(sys.executable)} -W ignore -m"

if not (Path(BUNDLE) / "configs" / "train.json").is_file():
    raise WorkflowError(f"bundle is {BUNDLE}, which has no configs/train.json. Give the folder of a bundle.")


def bundle_command(task, wildcards, *more):
    """Training or evaluation of one fold, called in the folder of the bundle."""
    words = ["--config_file", CONFIGS[task], "--manifest", os.path.abspath(FOLDS), "--dataset_dir", DATA_ROOT]
    words += ["--fold", wildcards.fold, "--seed", str(SEED)]
    words += ["--output_dir", os.path.abspath(RUN_DIR.format(fold=wildcards.fold)), *OPTIONS, *more]
    name = {"train": "training", "evaluate": "evaluating"}[task]
    return f"cd {shlex.quote(BUNDLE)} && {PYTHON} monai.bundle run {name} {shlex.join(words)}"


wildcard_constraints:
    fold=r"\d+",


localrules:
    all,
    split,
    pool,


rule all:
    input:
        f"{OUT}/summary.csv",
        expand(f"{RUN_DIR}/report.html", fold=range(NUM_FOLDS)),


rule check:
    input:
        MANIFEST,
    output:
        touch(f"{OUT}/manifest_checked.done"),
    log:
        f"{OUT}/logs/check.log",
    params:
        python=PYTHON,
        data_root=DATA_ROOT,
    threads: THREADS
    shell:
        "{params.python} monai_synth manifest check {input:q} --data-root {params.data_root:q} --workers {threads} "
        "2>&1 | tee {log:q}"


rule split:
    input:
        manifest=MANIFEST,
        checked=rules.check.output,
    output:
        FOLDS,
    params:
        python=PYTHON,
        data_root=DATA_ROOT,
        num_folds=NUM_FOLDS,
        seed=SEED,
    shell:
        "{params.python} monai_synth manifest split {input.manifest:q} --folds {params.num_folds} "
        "--seed {params.seed} --data-root {params.data_root:q} --out {output:q}"


# Snakemake deletes the declared outputs of a job that fails or starts again, and empties its declared logs. The run
# folder of a training must outlive both: only the mark that it ended is declared.
# A checkpoint is continued only with the settings and folds that began it: after another split, the resumed model would
# be evaluated on patients that it was trained on.
rule train:
    input:
        FOLDS,
    output:
        touch(f"{RUN_DIR}/trained.done"),
    params:
        command=lambda wildcards: bundle_command("train", wildcards),
        settings=lambda wildcards: "\n".join([f"fold {wildcards.fold}", f"seed {SEED}", *OPTIONS]),
        run_dir=RUN_DIR,
        config=f"{BUNDLE}/configs/train.json",
    threads: THREADS
    resources:
        **RESOURCES,
    shell:
        """
        begun={params.run_dir:q}/begun_with.txt
        {{ echo {params.settings:q}; echo "train.json $(cksum < {params.config:q})"; cat {input:q}; }} > "$begun.now"
        resume=""
        if [ -e {params.run_dir:q}/models/last.pt ] || [ -e {params.run_dir:q}/models/previous.pt ]; then
            if ! diff "$begun" "$begun.now" >&2; then
                echo {params.run_dir:q}" holds a training that was begun with other settings (< before, > now). Go" \
                    "back to the earlier ones to continue it, choose another 'out', or delete that folder." >&2
                exit 1
            fi
            resume="--resume true"
        fi
        mv "$begun.now" "$begun"
        ({params.command} $resume) 2>&1 | tee -a {params.run_dir:q}/training.log
        """


rule evaluate:
    input:
        rules.train.output,
    output:
        cases=f"{RUN_DIR}/evaluation/cases.csv",
        about=f"{RUN_DIR}/evaluation/evaluation.json",
    log:
        f"{OUT}/logs/evaluate_fold_{{fold}}.log",
    params:
        command=lambda wildcards: bundle_command("evaluate", wildcards, "--split", "val"),
    threads: THREADS
    resources:
        **RESOURCES,
    shell:
        "({params.command}) 2>&1 | tee {log:q}"


rule report:
    input:
        rules.evaluate.output,
    output:
        f"{RUN_DIR}/report.html",
    params:
        python=PYTHON,
        run_dir=RUN_DIR,
    shell:
        "{params.python} monai_synth report {params.run_dir:q} --out {output:q}"


rule pool:
    input:
        folds=FOLDS,
        cases=expand(f"{RUN_DIR}/evaluation/cases.csv", fold=range(NUM_FOLDS)),
    output:
        cases=f"{OUT}/cases.csv",
        summary=f"{OUT}/summary.csv",
    params:
        python=shlex.quote(sys.executable),
        code=lambda wildcards: POOL,
        data_root=DATA_ROOT,
    shell:
        "{params.python} -W ignore -c {params.code:q} {input.folds:q} {params.data_root:q} {output.cases:q} "
        "{output.summary:q} {input.cases:q}"

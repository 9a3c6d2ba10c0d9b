"""The command line: parse, call, print."""

import ast
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import monai_synth
from monai_synth.errors import ConfigError, SynthError

if TYPE_CHECKING:
    from monai_synth.data.manifest import Manifest

app = typer.Typer(
    name="monai-synth",
    help="Conditional medical image synthesis on MONAI: from a folder of scans to a trained bundle and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
manifest_app = typer.Typer(help="The CSV that describes a cohort: build, check, split.", no_args_is_help=True)
app.add_typer(manifest_app, name="manifest")
checkpoint_app = typer.Typer(help="Weights of published methods: import them.", no_args_is_help=True)
app.add_typer(checkpoint_app, name="checkpoint")


def _recipes() -> str:
    """Names of the recipes, without the import of what reads them: --help shall be quick."""
    return ", ".join(sorted(file.stem for file in (Path(__file__).parent / "data" / "recipes").glob("*.yaml")))


_DATA_ROOT = typer.Option("--data-root", "--data_root", help="Folder that its paths start from; default: its own.")


def main() -> None:
    """Run the command line; an error made by the input ends it with one readable message and exit code 1."""
    try:
        app()
    except SynthError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)


def _version(value: bool) -> None:
    if value:
        typer.echo(monai_synth.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("demo-cohort")
def demo_cohort(
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    patients: Annotated[int, typer.Option(min=3, help="Number of patients, split about 4:1:1.")] = 12,
    seed: Annotated[int, typer.Option(help="The same seed draws the same patients.")] = 0,
    voxel_mm: Annotated[float, typer.Option(min=1.0, help="In-plane voxel size; larger is faster.")] = 2.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a cohort that is there.")] = False,
) -> None:
    """Draw phantom heads (MR, CT, body mask, labels) with a manifest: to try everything out without patient data."""
    from monai_synth.data.phantom import write_demo_cohort

    _refuse_existing(out / "manifest.csv", overwrite)
    manifest = write_demo_cohort(out, num_patients=patients, seed=seed, voxel_mm=voxel_mm)
    typer.echo(f"{patients} phantom patients written. Their manifest: {manifest}")


@manifest_app.command("build")
def manifest_build(
    out: Annotated[Path, typer.Argument(help="CSV to write.")],
    root: Annotated[Path, typer.Option(help="Folder of the cohort.")],
    recipe: Annotated[str, typer.Option(help=f"One of {_recipes()}, or a YAML file of yours.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT, with any splits it holds.")] = False,
) -> None:
    """Find the files of a cohort by a recipe and write its manifest."""
    from monai_synth.data.recipes import build_manifest

    manifest = build_manifest(recipe, root, out, overwrite=overwrite)
    typer.echo(f"{len(manifest)} cases of {len(manifest.patients)} patients written to {out}.")
    _say_data_root(manifest)


@manifest_app.command("check")
def manifest_check(
    file: Annotated[Path, typer.Argument(help="The manifest.")],
    data_root: Annotated[Path | None, _DATA_ROOT] = None,
    deep: Annotated[
        bool, typer.Option("--deep/--quick", help="Read every image, or only check that it exists.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, help="Images loaded at the same time.")] = 2,
) -> None:
    """Look at every file of a manifest and list all that is wrong with it; exit code 1 if anything is."""
    from monai_synth.data.manifest import read_manifest
    from monai_synth.data.manifest_check import check_manifest, format_findings

    manifest = read_manifest(file, data_root=data_root)
    findings = check_manifest(manifest, deep=deep, num_workers=workers)
    errors = [finding for finding in findings if finding.severity == "error"]
    if findings:
        typer.echo(format_findings(findings))
    typer.echo(
        f"{file}: {len(manifest)} cases of {len(manifest.patients)} patients, roles {', '.join(manifest.roles)}: "
        f"{len(errors)} error(s), {len(findings) - len(errors)} warning(s)."
    )
    if errors:
        raise typer.Exit(1)


@manifest_app.command("split")
def manifest_split(
    file: Annotated[Path, typer.Argument(help="The manifest.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    folds: Annotated[int | None, typer.Option(min=2, help="Number of folds for cross validation.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Shares of train, val and test, such as 0.7,0.1,0.2.")] = None,
    by: Annotated[str, typer.Option(help="What is kept together; only patient_id is possible.")] = "patient_id",
    stratify: Annotated[str | None, typer.Option(help="Column whose values are spread evenly.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed splits the same way.")] = 0,
    data_root: Annotated[Path | None, _DATA_ROOT] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Split although files are not there, as on another machine.")
    ] = False,
) -> None:
    """Assign whole patients to train, val and test, or to folds."""
    from monai_synth.data.manifest import read_manifest
    from monai_synth.data.splits import require_files, split_folds, split_fractions

    if by != "patient_id":
        raise ConfigError(
            f"--by {by}: only patient_id is possible, because slices or scans of one patient on two sides leak."
        )
    if (folds is None) == (fractions is None):
        raise ConfigError("Give either --folds N or --fractions TRAIN,VAL,TEST.")
    _refuse_existing(out, overwrite)
    manifest = read_manifest(file, data_root=data_root)
    if not allow_missing:
        require_files(manifest)
    if folds is not None:
        result = split_folds(manifest, num_folds=folds, seed=seed, stratify=stratify)
        column = "fold"
    else:
        result = split_fractions(manifest, fractions=_fractions(str(fractions)), seed=seed, stratify=stratify)
        column = "split"
    result = result.write(out)
    counts = result.table.groupby(column)["patient_id"].nunique()
    counts = counts.reindex([name for name in ("train", "val", "test") if name in counts] or counts.index)
    typer.echo(f"{out}: " + ", ".join(f"{column} {value}: {count} patients" for value, count in counts.items()))
    _say_data_root(result)


@checkpoint_app.command("import")
def checkpoint_import(
    file: Annotated[Path, typer.Argument(help="A published .pth file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Weights to write; their network_def goes beside them as .json.")],
    option: Annotated[
        list[str] | None,
        typer.Option(help="What the weights do not tell, as name=value: noise_channels=64, upsampling=more, ..."),
    ] = None,
    fold_spectral_norm: Annotated[
        bool, typer.Option("--fold-spectral-norm", help="Plain weights: faster, exportable, not for training on.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every entry of the file.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Recognise a published weight file and write it as ours, strictly: nothing is left over or made up."""
    from monai_synth.checkpoints import import_checkpoint, write_imported

    hints = dict(_option(text) for text in option or [])
    imported = import_checkpoint(file, fold_spectral_norm=fold_spectral_norm, **hints)
    weights, config = write_imported(imported, out, overwrite=overwrite)
    count = sum(p.numel() for p in imported.network.parameters())
    typer.echo(f"{imported.family}: {imported.network_def['_target_']}, {count:,} parameters")
    if verbose:
        for key, ours in imported.report.used.items():
            typer.echo(f"  {key} -> {ours}")
    typer.echo(imported.report.format(verbose=verbose))
    typer.echo(f"weights: {weights}")
    typer.echo(f"network_def: {config}")


@app.command("networks")
def networks(
    name: Annotated[str | None, typer.Argument(help="Describe one network: class, arguments, shapes.")] = None,
) -> None:
    """List every network by its registry name: kind, parameters with published channels, what it is, paper."""
    from monai_synth.networks.registry import count_parameters, describe, list_networks

    if name is not None:
        entry = describe(name)
        settings = ", ".join(f"{key}={value!r}" for key, value in {**entry.published, **entry.example}.items())
        typer.echo(f"{name}: {entry.network.__module__}.{entry.network.__qualname__}, {entry.kind}")
        typer.echo(f"{entry.summary} ({entry.paper}). Published: {settings}: {count_parameters(name):,} parameters\n")
        typer.echo(inspect.getdoc(entry.network))
        typer.echo("\nforward:\n" + (inspect.getdoc(entry.network.forward) or ""))
        return
    rows = [(name, describe(name)) for name in list_networks()]
    for kind in ("generator", "discriminator", "encoder", "segmenter"):
        for name, entry in rows:
            if entry.kind == kind:
                typer.echo(f"{name:24}{kind:15}{count_parameters(name):>12,}  {entry.summary} ({entry.paper})")


@app.command("report")
def report(
    run_dir: Annotated[Path, typer.Argument(help="A training's --output_dir.")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: RUN_DIR/report.html.")] = None,
) -> None:
    """Write one self-contained HTML page about a training and its evaluation."""
    from monai_synth.reports import headline, write_report

    page = write_report(run_dir, out)
    for line in headline(run_dir):
        typer.echo(line)
    typer.echo(f"report: {page.resolve()}")


def _option(text: str) -> tuple[str, Any]:
    name, is_pair, value = text.partition("=")
    if not is_pair or not name.isidentifier():
        raise ConfigError(f"--option {text!r}: give name=value, such as noise_channels=64.")
    if name in ("fold_spectral_norm", "notes_on_file"):
        raise ConfigError(f"--option {text!r} is no argument of a network; see --help for the options of the command.")
    try:
        return name, ast.literal_eval(value.capitalize() if value.lower() in ("true", "false") else value)
    except (ValueError, SyntaxError, TypeError):
        return name, value  # a word, such as more


def _refuse_existing(file: Path, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} is there already. Write to another place, or replace it with --overwrite.")


def _say_data_root(manifest: "Manifest") -> None:
    if manifest.needs_data_root:
        typer.echo(
            f"Its paths start from {manifest.root}, not from its own folder: give that folder wherever you use it, "
            f"as --data-root {manifest.root} here and as --dataset_dir {manifest.root} to a bundle."
        )


def _fractions(text: str) -> dict[str, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (2, 3):
        raise ConfigError(
            f"--fractions {text!r}: give two or three numbers for train, val and test, such as 0.7,0.1,0.2."
        )
    return dict(zip(("train", "val", "test"), values, strict=False))

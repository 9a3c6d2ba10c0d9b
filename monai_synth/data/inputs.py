"""Images to translate when there is no manifest: one file, one DICOM series, or a folder of them; or pictures."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from monai_synth.data.image_files import PICTURE_SUFFIXES, refuse_bad_series
from monai_synth.errors import ConfigError, ManifestError

_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")
_SUFFIXES = {"volumes": _VOLUME_SUFFIXES, "pictures": PICTURE_SUFFIXES}
Kinds = Literal["volumes", "pictures"]


def find_images(
    source: str | Path | None,
    *,
    key: str = "image",
    kinds: Kinds = "volumes",
    pattern: str = "*",
    output_dir: str | Path | None = None,
    output_suffix: str = ".nii.gz",
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """List the images at ``source`` for a MONAI dataset.

    Args:
        source: a volume (``.nii``, ``.nii.gz``, ``.mha``, ``.mhd``, ``.nrrd``), a folder that holds the files of one
            DICOM series, or a folder in which (at any depth) such volumes or series lie. With ``kinds="pictures"`` a
            picture (``.png``, ``.jpg``, ``.jpeg``, ``.tif``, ``.tiff``, ``.bmp``) or a folder of them.
        key: under which the path is given.
        kinds: ``"volumes"``, DICOM series among them, or ``"pictures"``; others in a folder are passed over.
        pattern: in a folder, only files and series folders with such a name, as in ``mr.nii.gz`` or ``*_t1.nii.gz``.
        output_dir: where the results will go; it may not be where the images are, or results would become images.
        output_suffix: what a result is called after its case id.
        overwrite: replace results that are there.

    Returns:
        One dictionary an image with ``case_id`` (the path below ``source``, with ``_`` for ``/``) and ``key``.

    Raises:
        ManifestError: if nothing is there, or nothing that can be read, or a result would be overwritten.
        ConfigError: if ``kinds`` is neither.
    """
    if kinds not in _SUFFIXES:
        raise ConfigError(f"find_images(kinds={kinds!r}): choose 'volumes' or 'pictures'.")
    has_volumes, suffixes = kinds == "volumes", _SUFFIXES[kinds]
    wanted = "a volume, a DICOM folder or a folder of volumes" if has_volumes else "a picture or a folder of pictures"
    readable = ", ".join(suffixes)
    if source is None or str(source) == "":
        raise ManifestError(f"No input was named. Give {wanted}: --input PATH.")
    root = Path(source)
    if not root.exists():
        raise ManifestError(f"The input {root} does not exist. Name {wanted}.")
    if root.is_file():
        if not root.name.lower().endswith(suffixes) and not (has_volumes and is_dicom(root)):
            raise ManifestError(
                f"The input {root} is no {kinds.removesuffix('s')}. Readable are {readable}"
                f"{' and DICOM' if has_volumes else ''}."
            )
        cases = [{"case_id": _stem(root.name), key: str(root)}]
        _refuse_existing(cases, key, output_dir, output_suffix, overwrite)
        return cases
    if output_dir is not None and root.resolve() in (Path(output_dir).resolve(), *Path(output_dir).resolve().parents):
        raise ManifestError(
            f"The results would go into {output_dir}, which lies in the input folder {root}: the next run would "
            "translate them too. Give a folder elsewhere with --output_dir."
        )
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith("."))
    found = [path for path in files if path.name.lower().endswith(suffixes)]
    series = sorted(folder for folder in (root, *_folders(root)) if _is_series(folder)) if has_volumes else []
    found, series = ([path for path in paths if fnmatch(path.name, pattern)] for paths in (found, series))
    for folder in series:
        refuse_bad_series(folder)
    if not found and not series:
        raise ManifestError(
            f"The folder {root} holds no {kinds.removesuffix('s')} called {pattern!r}. Looked for {readable}"
            f"{' and for DICOM series' if has_volumes else ''} at any depth."
        )
    cases = [{"case_id": _case_id(path, root), key: str(path)} for path in [*found, *series]]
    _refuse_equal_names(cases, key)
    _refuse_existing(cases, key, output_dir, output_suffix, overwrite)
    return cases


def _refuse_equal_names(cases: list[dict[str, Any]], key: str) -> None:
    first: dict[str, str] = {}
    for case in cases:
        other = first.setdefault(case["case_id"], case[key])
        if other != case[key]:
            raise ManifestError(
                f"{other} and {case[key]} would both be called {case['case_id']!r}, so one result would overwrite the "
                "other. Rename one, or translate them one at a time."
            )


def _refuse_existing(
    cases: list[dict[str, Any]], key: str, output_dir: str | Path | None, suffix: str, overwrite: bool
) -> None:
    if output_dir is None:
        return
    results = {Path(output_dir) / f"{case['case_id']}{suffix}": Path(case[key]) for case in cases}
    for result, source in results.items():
        if result.resolve() == source.resolve():
            raise ManifestError(
                f"The result of {source} would be called {result} and replace it. Choose another --output_dir."
            )
    there = [result for result in results if result.exists()]
    if there and not overwrite:
        raise ManifestError(
            f"{there[0]} is there already ({len(there)} of {len(cases)} results), perhaps of another patient whose "
            "file has the same name. Choose another --output_dir, or replace it with --overwrite true."
        )


def is_dicom(file: Path) -> bool:
    """Whether a file has the DICOM preamble."""
    with file.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def _folders(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_dir()]


def _is_series(folder: Path) -> bool:
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return any(is_dicom(path) for path in files if not path.name.lower().endswith(_VOLUME_SUFFIXES))


def _case_id(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    text = _stem("_".join(relative.parts)) if relative.parts else root.resolve().name
    return re.sub(r"[^\w.+-]", "_", text)


def _stem(name: str) -> str:
    for suffix in sorted((*_VOLUME_SUFFIXES, *PICTURE_SUFFIXES), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name

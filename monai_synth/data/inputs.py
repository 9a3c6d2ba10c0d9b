"""Images to translate when there is no manifest: one file, one DICOM series, or a folder of them."""

import re
from pathlib import Path
from typing import Any

from monai_synth.errors import ManifestError

_VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")


def find_images(source: str | Path, *, key: str = "image") -> list[dict[str, Any]]:
    """List the volumes at ``source`` for a MONAI dataset.

    Args:
        source: a volume (``.nii``, ``.nii.gz``, ``.mha``, ``.mhd``, ``.nrrd``), a folder that holds the files of one
            DICOM series, or a folder in which (at any depth) such volumes or series lie.
        key: under which the path is given.

    Returns:
        One dictionary a volume with ``case_id`` (the path below ``source``, with ``_`` for ``/``) and ``key``.

    Raises:
        ManifestError: if nothing is there, or nothing that can be read.
    """
    if source is None or str(source) == "":
        raise ManifestError(
            "No input was named. Give a NIfTI file, a DICOM folder or a folder of volumes: --input PATH."
        )
    root = Path(source)
    if not root.exists():
        raise ManifestError(f"The input {root} does not exist.")
    if root.is_file():
        if not root.name.lower().endswith(_VOLUME_SUFFIXES) and not is_dicom(root):
            raise ManifestError(f"The input {root} is no volume. Readable are {', '.join(_VOLUME_SUFFIXES)} and DICOM.")
        return [{"case_id": _stem(root.name), key: str(root)}]
    found = [
        path for path in sorted(root.rglob("*")) if path.is_file() and path.name.lower().endswith(_VOLUME_SUFFIXES)
    ]
    series = sorted({folder for folder in (root, *_folders(root)) if _is_series(folder)})
    if not found and not series:
        raise ManifestError(
            f"The folder {root} holds no volume. Looked for {', '.join(_VOLUME_SUFFIXES)} and for DICOM series at any "
            "depth."
        )
    return [{"case_id": _case_id(path, root), key: str(path)} for path in [*found, *series]]


def is_dicom(file: Path) -> bool:
    """Whether a file has the DICOM preamble."""
    with file.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def _folders(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_dir()]


def _is_series(folder: Path) -> bool:
    first = next((path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")), None)
    return first is not None and not first.name.lower().endswith(_VOLUME_SUFFIXES) and is_dicom(first)


def _case_id(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    text = _stem("_".join(relative.parts)) if relative.parts else root.resolve().name
    return re.sub(r"[^\w.+-]", "_", text)


def _stem(name: str) -> str:
    for suffix in sorted(_VOLUME_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name

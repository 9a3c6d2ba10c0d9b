"""One case through a transform: whatever goes wrong names the case and its files.

A case is a dictionary with ``case_id`` and, for each key, a path or a list of paths (several channels).
"""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.data import Dataset

from monai_synth.errors import ManifestError, SynthError


class CaseDataset(Dataset):
    """MONAI's ``Dataset`` for cases, with errors that say which case and which file.

    Args:
        data: cases, as :meth:`Manifest.cases` or :func:`find_images` give them.
        transform: what loads and prepares a case.

    Raises:
        SynthError: when an item is asked for whose transform fails.
    """

    def _transform(self, index: int) -> Any:
        if self.transform is None:
            return self.data[index]
        return apply_to_case(self.transform, self.data[index])


def apply_to_case(
    transform: Callable[[dict[str, Any]], Mapping[Hashable, Any]], case: Mapping[str, Any]
) -> Mapping[Hashable, Any]:
    """Run a transform on a copy of a case.

    Raises:
        ManifestError: if a file is missing.
        SynthError: of the kind that the transform raised, or plain for any other error; names case, key and file.
    """
    sources = {key: files_in(value) for key, value in case.items()}
    for key, files in sources.items():
        for file in files:
            if not file.exists():
                raise ManifestError(
                    f"{label_of(case)}: {key!r} is missing: {file}. Check the manifest, or name the "
                    "folder that its paths start from."
                )
    try:
        return transform(dict(case))
    except Exception as error:
        chain = _chain(error)
        text = " ".join(str(link) for link in chain)
        named = {key: files for key, files in sources.items() if any(str(file) in text for file in files)}
        where = ", ".join(f"{key!r}: {file}" for key, files in (named or sources).items() for file in files)
        known = next((link for link in chain if isinstance(link, SynthError)), None)
        raise (SynthError if known is None else type(known))(
            f"{label_of(case)} failed in the transform ({where or 'no files'}): {known or _first_line(chain[-1])}"
        ) from error


def label_of(case: Mapping[str, Any]) -> str:
    """How messages call a case."""
    return f"Case {case.get('case_id', '?')!r}"


def path_in(value: Any) -> Path | None:
    """Tell paths from ids and other text: absolute, or the name of a file that is there."""
    if not isinstance(value, str | Path):
        return None
    path = Path(value)
    return path if path.is_absolute() or path.is_file() else None


def files_in(value: Any) -> list[Path]:
    """Give the paths in one value of a case."""
    values = value if isinstance(value, list | tuple) else [value]
    return [path for item in values if (path := path_in(item)) is not None]


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and what caused it, outermost first."""
    links = [error]
    while (inner := links[-1].__cause__) is not None and inner not in links:
        links.append(inner)
    return links


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"

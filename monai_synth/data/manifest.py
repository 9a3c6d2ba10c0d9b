"""The manifest: one CSV row per case, and the rules that every cohort obeys before it is used.

Columns: ``patient_id`` and ``case_id`` (text, ``case_id`` unique), ``split`` (train, val, test) and/or ``fold``
(0, 1, ...), free metadata (``site``, ``age``, ``sex``, ``provenance``, ``meta_*``). Every other column is a role and
holds paths relative to the CSV's folder or to ``data_root``; an empty cell means that the case lacks that role.
"""

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pandera.pandas as pa

from monai_synth.errors import LeakageError, ManifestError

SPLITS = ("train", "val", "test")
ID_COLUMNS = ("patient_id", "case_id")
METADATA_COLUMNS = ("site", "age", "sex", "provenance")
METADATA_PREFIX = "meta_"
MAX_LISTED = 10
PartName = Literal["train", "val", "test", "all"]


def is_metadata(column: str) -> bool:
    """Whether ``column`` holds free metadata rather than paths."""
    return column in METADATA_COLUMNS or column.startswith(METADATA_PREFIX)


def is_role(column: str) -> bool:
    """Whether ``column`` holds paths."""
    return column not in (*ID_COLUMNS, "split", "fold") and not is_metadata(column)


@dataclass(frozen=True, eq=False)
class Manifest:
    """A validated cohort. Build it with `read_manifest` or `manifest_from_table`.

    Attributes:
        file: The CSV this cohort was read from or will be written to.
        root: Absolute folder that the paths in the role columns start from.
        table: One row per case; text columns as ``string`` with NA for empty cells, ``fold`` as ``Int64``.
    """

    file: Path
    root: Path
    table: pd.DataFrame

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.table)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the columns that hold paths, in file order."""
        return tuple(column for column in self.table.columns if is_role(column))

    @property
    def patients(self) -> frozenset[str]:
        """Ids of all patients."""
        return frozenset(self.table["patient_id"])

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have at least one case, in the order train, val, test."""
        present = set(self.table["split"].dropna()) if "split" in self.table else set()
        return tuple(name for name in SPLITS if name in present)

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that have at least one case."""
        return tuple(sorted(int(k) for k in self.table["fold"].dropna().unique())) if "fold" in self.table else ()

    @property
    def needs_data_root(self) -> bool:
        """Whether reading ``file`` again takes ``data_root``, because the paths do not start at its folder."""
        return self.root != self.file.parent

    def part(self, name: PartName, *, fold: int | None = None) -> "Manifest":
        """Select the cases of a split, or of a split as a cross-validation fold defines it.

        Args:
            name: ``train``, ``val``, ``test`` or ``all``.
            fold: With ``fold=k``, ``val`` is fold ``k`` and ``train`` all other folds; cases whose split is ``test``
                are in neither. Without it the ``split`` column decides.

        Returns:
            The selected cases; their ``split`` says ``name``. Only ``part("test", fold=k)`` of a cohort without
            held-out test cases may be empty.

        Raises:
            ManifestError: Unknown name or fold, no column to decide by, or nothing left.
        """
        if name not in (*SPLITS, "all"):
            raise ManifestError(f"Part {name!r} of {self.file} is unknown. Parts are train, val, test and all.")
        if fold is not None and fold not in self.folds:
            raise ManifestError(
                f"Fold {fold!r} is not in {self.file}, which has {_listing(self.folds) or 'no folds'}. Choose one of "
                "these, or make folds with `monai-synth manifest split FILE --by patient_id --folds 5`."
            )
        if name == "all":
            return self
        table = self.table
        if fold is None:
            if not self.splits:
                hint = f"pass a fold ({_listing(self.folds)})" if self.folds else "run `monai-synth manifest split`"
                raise ManifestError(f"{self.file} has no split, so part {name!r} is undefined. Way out: {hint}.")
            chosen = table["split"] == name
        else:
            held_out = table["split"] == "test" if "split" in table else pd.Series(False, index=table.index)
            in_fold = (table["fold"] == fold).fillna(False)
            chosen = held_out if name == "test" else ~held_out & (in_fold if name == "val" else ~in_fold)
        if not chosen.any() and not (name == "test" and fold is not None):
            there_is = f"splits {_listing(self.splits)}" if fold is None else f"folds {_listing(self.folds)}"
            raise ManifestError(
                f"Part {name!r} of {self.file} is empty; there are {there_is}. "
                "Choose another part, or assign cases to it with `monai-synth manifest split`."
            )
        return replace(self, table=with_column(table[chosen], "split", name))

    def with_roles(self, *roles: str) -> "Manifest":
        """Keep only the cases that have a path in every one of ``roles``."""
        self.require_roles(roles)
        return replace(self, table=self.table.dropna(subset=list(roles)).reset_index(drop=True))

    def cases(self, **roles: str | Sequence[str]) -> list[dict[str, Any]]:
        """List the cases as dictionaries for MONAI transforms.

        Args:
            **roles: Key of the dictionary = role column, or a list of role columns (several channels), as in
                ``cases(condition=["t1", "t2"], target="ct", mask="mask")``.

        Returns:
            Per case ``patient_id``, ``case_id``, ``split`` (empty text where there is none) and one absolute path (or
            list of paths) per key.

        Raises:
            ManifestError: A role column does not exist, or a case has no path in it.
        """
        if reserved := sorted({"patient_id", "case_id", "split"} & set(roles)):
            raise ManifestError(f"Key {reserved[0]!r} is taken by the case itself. Name the role's key differently.")
        wanted = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in roles.items()}
        columns = list(dict.fromkeys(column for names in wanted.values() for column in names))
        self.require_roles(columns)
        for column in columns:
            lacking = self.table.loc[self.table[column].isna(), "case_id"].tolist()
            if lacking:
                raise ManifestError(
                    f"{len(lacking)} of {len(self)} cases in {self.file} have no {column!r} ({_listing(lacking)}). "
                    f"Fill the cells, drop the rows, or select complete cases with `manifest.with_roles({column!r})`."
                )
        ids = {name: self.table[name].tolist() for name in ID_COLUMNS}
        ids["split"] = self.table["split"].fillna("").tolist() if "split" in self.table else [""] * len(self)
        paths = {column: [os.path.join(self.root, cell) for cell in self.table[column]] for column in columns}
        return [
            {name: values[row] for name, values in ids.items()}
            | {
                key: paths[names[0]][row] if isinstance(roles[key], str) else [paths[name][row] for name in names]
                for key, names in wanted.items()
            }
            for row in range(len(self))
        ]

    def write(self, file: str | Path) -> "Manifest":
        """Write the CSV (UTF-8, commas) in one step; cells stay as they are, so paths stay relative to ``root``.

        Returns:
            The same cohort with the new ``file``; its ``needs_data_root`` says whether readers must pass ``data_root``.

        Raises:
            ManifestError: The file cannot be written.
        """
        target = Path(os.path.abspath(file))
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", newline="", dir=target.parent, prefix=f".{target.name}.", delete=False
            ) as stream:
                temporary = stream.name
                self.table.to_csv(stream, index=False, lineterminator="\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise ManifestError(f"{target} cannot be written: {error}. Choose an existing, writable folder.") from error
        return replace(self, file=target)

    def require_roles(self, roles: Iterable[str]) -> None:
        """Stop where one of ``roles`` is no column.

        Raises:
            ManifestError: naming the columns that there are.
        """
        if missing := [role for role in roles if role not in self.roles]:
            raise ManifestError(
                f"Role {missing[0]!r} is not a column of {self.file}, which has the roles "
                f"{_listing(self.roles) or 'none'}. Name one of these, or add the column."
            )


def read_manifest(file: str | Path | None, *, data_root: str | Path | None = None) -> Manifest:
    """Read and validate a manifest; image files are not opened (see `manifest_check`).

    Args:
        file: CSV in UTF-8 (with or without byte order mark), separated by commas, semicolons or tabs.
        data_root: Folder that the paths start from; ``None`` means the CSV's folder.

    Returns:
        The cohort, all ids as text.

    Raises:
        ManifestError: The file or a value breaks the column contract.
        LeakageError: A patient is in two splits or in two folds.
    """
    if not file:
        raise ManifestError("No manifest was named. Give the CSV of a cohort, to a bundle as --manifest FILE.")
    path = Path(os.path.abspath(file))
    header, rows, lines = _read_rows(path)
    table = pd.DataFrame(rows, columns=header, dtype="string")
    return manifest_from_table(table, file=path, data_root=data_root, lines=lines)


def manifest_from_table(
    table: pd.DataFrame, *, file: str | Path, data_root: str | Path | None = None, lines: Sequence[int] | None = None
) -> Manifest:
    """Validate a table in memory as the manifest that ``file`` is or will be.

    Args:
        table: One row per case; cells are text, numbers or missing.
        file: The CSV; it need not exist.
        data_root: Folder that the paths start from; ``None`` means the CSV's folder.
        lines: Line of ``file`` for each row, for messages.

    Returns:
        The cohort.

    Raises:
        ManifestError: A value breaks the column contract.
        LeakageError: A patient is in two splits or in two folds.
    """
    path = Path(os.path.abspath(file))
    root = path.parent if data_root is None else Path(os.path.abspath(data_root))
    if data_root is not None and not root.is_dir():
        raise ManifestError(f"data_root {root} is not a folder. Name the folder that {path.name}'s paths start from.")
    _check_header(path, [str(column) for column in table.columns])
    if table.empty:
        raise ManifestError(f"{path} has a header but no case. Add one row per case.")
    text = table.reset_index(drop=True).astype("string").replace("", pd.NA)
    # A split or fold column without a single value is a template that was not filled in: the cohort is not split yet.
    text = text.drop(columns=[name for name in ("split", "fold") if name in text and text[name].isna().all()])
    _check_values(path, text, lines or range(2, len(text) + 2))
    if "fold" in text:
        text["fold"] = text["fold"].str.removesuffix(".0").astype("Int64")
    for column in ("split", "fold"):
        if column in text:
            _refuse_leakage(path, text, column)
    return Manifest(file=path, root=root, table=text)


def with_column(table: pd.DataFrame, name: Literal["split", "fold"], values: Any) -> pd.DataFrame:
    """Copy ``table`` with column ``split`` or ``fold`` set, placed behind the ids when it is new."""
    table = table.reset_index(drop=True)
    column = pd.Series(values, index=table.index, dtype="string" if name == "split" else "Int64")
    if name in table:
        return table.assign(**{name: column})
    place = max(list(table.columns).index(known) for known in (*ID_COLUMNS, "split") if known in table)
    table.insert(place + 1, name, column)
    return table


def _read_rows(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}. Name an existing, readable CSV.") from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path} is not UTF-8 text (byte {error.start}). A manifest is a CSV: save it as 'CSV UTF-8'."
        ) from error
    first_line = next(iter(text.splitlines()), "")
    if not text.strip():
        raise ManifestError(f"{path} is empty. A manifest starts with a header: patient_id,case_id,split,mr,ct,mask.")
    headers = {separator: next(csv.reader([first_line], delimiter=separator), []) for separator in ",;\t"}
    separator = max(headers, key=lambda each: ("patient_id" in headers[each], len(headers[each])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    try:
        header = next(reader)
        for row in reader:
            if any(row):  # spreadsheets leave lines of separators behind the last case
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ManifestError(f"{path}, line {reader.line_num}: {error}. Check the quotes of that line.") from error
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise ManifestError(
                f"{path}, line {line}: {len(row)} fields where the header has {len(header)}. Every line needs one "
                "field per column; put a value that holds the separator in double quotes."
            )
    return header, rows, lines


def _check_header(path: Path, header: list[str]) -> None:
    for number, name in enumerate(header, start=1):
        if not name.strip() or name != name.strip():
            raise ManifestError(
                f"{path}: column {number} is named {name!r}. Every column needs a name without blanks at its ends: "
                "rename or delete it (pandas: `to_csv(index=False)`)."
            )
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise ManifestError(f"{path}: column {repeated[0]!r} is there twice. Names are unique: rename or delete one.")
    if missing := [name for name in ID_COLUMNS if name not in header]:
        similar = [name for name in header if name.lower().replace(" ", "_").replace("-", "_") in missing]
        hint = f"rename {similar[0]!r}" if similar else "add it"
        raise ManifestError(
            f"{path}: column {missing[0]!r} is missing; there are {_listing(header)}. Required are patient_id and "
            f"case_id: {hint}."
        )


@dataclass(frozen=True)
class _Rule:
    """What a value must fulfil (``is_kept``: True where it does), in words, with the way out."""

    is_kept: Callable[[pd.Series], Any]
    text: str
    way_out: str


_RULES = {
    "not_nullable": _Rule(pd.Series.notna, "the value is not empty", "fill it"),
    "field_uniqueness": _Rule(pd.Series.notna, "case_id is unique, one row per case", "give every case its own id"),
    "blanks": _Rule(lambda s: s == s.str.strip(), "no blank at the start or end", "remove the blanks"),
    "characters": _Rule(lambda s: ~s.str.contains(r"[\x00-\x1f\x7f]"), "no control characters", "retype the value"),
    "file_name": _Rule(
        lambda s: ~s.str.contains(r"[/\\]|^\.{1,2}$"),
        "an id also names output files, so it has no '/' or '\\' and is not '.' or '..'",
        "replace them, for example by '_'",
    ),
    "split": _Rule(lambda s: s.isin(SPLITS), "split is train, val or test", "correct the spelling (lower case)"),
    "fold": _Rule(
        lambda s: s.str.fullmatch(r"\d{1,6}(\.0)?"), "fold is a whole number >= 0", "number the folds 0, 1, ..."
    ),
    "backslash": _Rule(lambda s: ~s.str.contains("\\", regex=False), "paths use '/'", "replace every '\\' by '/'"),
    "relative": _Rule(
        lambda s: ~s.str.contains(r"^(?:[/~]|[A-Za-z]:)"),
        "paths are relative to the CSV's folder or to data_root",
        "remove the leading folders and pass them as data_root",
    ),
    "inside": _Rule(
        lambda s: ~s.str.contains(r"(?:^|/)\.\.(?:/|$)"),
        "paths do not leave their root with '..'",
        "move the CSV up, or pass a data_root that contains all files",
    ),
}


def _column(*rules: str, nullable: bool = False, unique: bool = False) -> pa.Column:
    checks = [pa.Check(_RULES[rule].is_kept, error=rule) for rule in rules]
    return pa.Column("string", checks, nullable=nullable, unique=unique)


def _check_values(path: Path, table: pd.DataFrame, lines: Sequence[int]) -> None:
    columns = {
        "patient_id": _column("blanks", "characters", "file_name"),
        "case_id": _column("blanks", "characters", "file_name", unique=True),
    }
    if "split" in table:
        columns["split"] = _column("split")
    if "fold" in table:
        columns["fold"] = _column("fold", nullable=True)
    for role in filter(is_role, table.columns):
        columns[role] = _column("blanks", "characters", "backslash", "relative", "inside", nullable=True)
    try:
        pa.DataFrameSchema(columns).validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        failures = errors.failure_cases.sort_values(["index", "column"], kind="stable")
        shown = [
            f"  line {lines[int(failure.row)]}, column {failure.column!r}: "
            f"{'empty' if pd.isna(failure.failure_case) else repr(failure.failure_case)}. "
            f"Rule: {_RULES[failure.check].text}. Way out: {_RULES[failure.check].way_out}."
            for failure in failures.head(MAX_LISTED).rename(columns={"index": "row"}).itertuples(index=False)
        ]
        rest = [f"  ... and {len(failures) - MAX_LISTED} more"] if len(failures) > MAX_LISTED else []
        count = "1 value breaks" if len(failures) == 1 else f"{len(failures)} values break"
        raise ManifestError("\n".join([f"{path}: {count} the column contract.", *shown, *rest])) from None
    if "fold" in table:
        unassigned = table["fold"].isna() & ((table["split"] != "test") if "split" in table else True)
        if unassigned.any():
            raise ManifestError(
                f"{path}: {_listing(table.loc[unassigned, 'case_id'].tolist())} have no fold. Only cases whose split "
                "is test may lack one: fill the cells, or run `monai-synth manifest split` again."
            )


def _refuse_leakage(path: Path, table: pd.DataFrame, column: str) -> None:
    pairs = table[["patient_id", column]].dropna().drop_duplicates()
    shared = pairs[pairs.duplicated("patient_id", keep=False)].sort_values(["patient_id", column])
    if shared.empty:
        return
    sides = [f"{patient!r} ({', '.join(map(str, group))})" for patient, group in shared.groupby("patient_id")[column]]
    rest = f" and {len(sides) - MAX_LISTED} more" if len(sides) > MAX_LISTED else ""
    raise LeakageError(
        f"{path}: {len(sides)} patient(s) are in more than one {column}: {', '.join(sides[:MAX_LISTED])}{rest}. All "
        f"cases of a patient belong to one {column}: assign it with `monai-synth manifest split FILE --by patient_id`."
    )


def _listing(values: Sequence[Any]) -> str:
    rest = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
    return ", ".join(map(str, values[:MAX_LISTED])) + rest

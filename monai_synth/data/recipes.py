"""Recipes: the folder layout of a cohort, written as data, becomes a manifest.

A recipe is a YAML file. Its patterns are paths below the cohort's root with named fields in braces, for example
``Task1/{region}/{patient_id}/mr.nii.gz``; ``*`` and ``?`` stand for any text and any character within one name.
Patterns that end in ``/`` match folders (DICOM series).
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from monai_synth.data.manifest import MAX_LISTED, Manifest, is_metadata, is_role, manifest_from_table
from monai_synth.errors import ManifestError

RECIPE_FOLDER = Path(__file__).parent / "recipes"
_FIELD = re.compile(r"\{([A-Za-z_]\w*)\}")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Layout of a cohort.

    Attributes:
        name: Name of the cohort.
        description: What the cohort is and what to know before using it.
        source: DOI or address of the data.
        roles: Role column -> patterns of its files; any of them may match.
        patient_id: Template of the patient's id, from the fields.
        case_id: Template of the case's id; files with equal case id form one row.
        patterns: Field -> regular expression that its whole value must match.
        meta: Metadata column -> template, or ``{from: template, regex: expression with one group}``.
        optional_roles: Roles that a case may lack.
        one_of: Groups of roles; a case has exactly one of each group.
    """

    name: str
    description: str
    source: str
    roles: dict[str, list[str]]
    patient_id: str = "{patient_id}"
    case_id: str = "{patient_id}"
    patterns: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    optional_roles: list[str] = field(default_factory=list)
    one_of: list[list[str]] = field(default_factory=list)


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(file.stem for file in RECIPE_FOLDER.glob("*.yaml"))


def load_recipe(recipe: str | Path) -> Recipe:
    """Read a recipe by name (see `list_recipes`) or from a YAML file.

    Raises:
        ManifestError: No such recipe, or its content breaks the rules.
    """
    file = RECIPE_FOLDER / f"{recipe}.yaml" if str(recipe) in list_recipes() else Path(recipe)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(
            f"Recipe {str(recipe)!r} is neither a readable file nor one of {', '.join(list_recipes())}. "
            "Name one of these or the path of a YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"Recipe {file} is not valid YAML: {error}. Correct the line named.") from error
    return _validated(content, file)


def build_manifest(recipe: str | Path, root: str | Path, out: str | Path, *, overwrite: bool = False) -> Manifest:
    """Find a cohort's files below ``root`` and write them as a manifest.

    Paths are relative to the folder of ``out`` where that folder is ``root`` or lies above it; otherwise they are
    relative to ``root``, and readers pass it as ``data_root`` (the result's ``needs_data_root`` is then true).

    Args:
        recipe: Name of a recipe or a YAML file.
        root: Folder of the cohort.
        out: CSV to write.
        overwrite: Replace ``out`` where it exists, with the splits that it may hold.

    Returns:
        The manifest, as `read_manifest` would read it from ``out``.

    Raises:
        ManifestError: Nothing found, a case lacks a role, two files claim one place, or ``out`` exists.
    """
    layout, top, target = load_recipe(recipe), Path(os.path.abspath(root)), Path(os.path.abspath(out))
    if not top.is_dir():
        raise ManifestError(f"Root {top} is not a folder. Name the folder that holds the cohort {layout.name!r}.")
    if target.exists() and not overwrite:
        raise ManifestError(f"{target} exists and may hold splits. Choose another name, or allow overwriting.")
    table = _table(layout, top)
    is_above = target.parent == top or target.parent in top.parents
    if is_above:
        prefix = top.relative_to(target.parent)
        for role in filter(is_role, table.columns):
            table[role] = table[role].map(lambda cell: (prefix / cell).as_posix(), na_action="ignore")
    manifest = manifest_from_table(table, file=target, data_root=None if is_above else top)
    return manifest.write(target)


def find_files(pattern: str, root: Path, *, patterns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Find the files (or, where ``pattern`` ends in ``/``, folders) that match a pattern.

    Args:
        pattern: Path below ``root`` with fields in braces.
        root: Folder to start from.
        patterns: Field -> regular expression for its whole value.

    Yields:
        Path relative to ``root`` and the fields' values, sorted by path; ``None`` instead of values where a field
        breaks its expression.
    """
    whole = re.compile(_expression(pattern.rstrip("/"), patterns))
    loose = re.compile(_expression(pattern.rstrip("/"), {}))
    for path in _walk(root, pattern.rstrip("/").split("/"), is_folder=pattern.endswith("/")):
        if loose.fullmatch(path):
            match = whole.fullmatch(path)
            yield path, match.groupdict() if match else None


def _walk(root: Path, parts: Sequence[str], *, is_folder: bool, below: str = "") -> Iterator[str]:
    first, rest = parts[0], parts[1:]
    expression = re.compile(_expression(first, {}))
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as error:
        raise ManifestError(
            f"Folder {root / below} cannot be listed: {error.strerror}. Check its permissions."
        ) from error
    for entry in entries:
        if expression.fullmatch(entry.name) and entry.is_dir() == (bool(rest) or is_folder):
            path = f"{below}/{entry.name}" if below else entry.name
            if rest:
                yield from _walk(root, rest, is_folder=is_folder, below=path)
            else:
                yield path


def _expression(pattern: str, patterns: Mapping[str, str]) -> str:
    """Regular expression of a pattern; a field that comes again must have the same value."""
    seen: set[str] = set()
    words = []
    for number, word in enumerate(_FIELD.split(pattern)):
        if number % 2 == 0:
            words.append(re.escape(word).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))
        elif word in seen:
            words.append(f"(?P={word})")
        else:
            seen.add(word)
            words.append(f"(?P<{word}>{patterns.get(word, '[^/]+')})")
    return "".join(words)


def _table(layout: Recipe, root: Path) -> pd.DataFrame:
    rows: dict[str, dict[str, str]] = {}
    ignored = []
    for role, patterns in layout.roles.items():
        for pattern in patterns:
            for path, values in find_files(pattern, root, patterns=layout.patterns):
                if values is None:
                    ignored.append(path)
                    continue
                found = {"patient_id": _fill(layout.patient_id, values), role: path} | {
                    column: _meta_value(column, rule, values) for column, rule in layout.meta.items()
                }
                case_id = _fill(layout.case_id, values)
                row = rows.setdefault(case_id, {"case_id": case_id})
                for column, value in found.items():
                    if row.setdefault(column, value) != value:
                        raise ManifestError(
                            f"Case {case_id!r} has two values for {column!r}: {row[column]!r} and {value!r} "
                            f"(from {path}). A case has one: move one file away, or make case_id of recipe "
                            f"{layout.name!r} tell them apart."
                        )
    used = {path for row in rows.values() for path in row.values()}
    # Where masks are called like images, {id}_mask.tif beside {id}.tif, they fit the looser pattern as well.
    ignored = [path for path in ignored if path not in used]
    looked_for = "\n".join(f"  {role}: {pattern}" for role, patterns in layout.roles.items() for pattern in patterns)
    rule_words = "".join(f"\n  with {name} like {expression}" for name, expression in layout.patterns.items())
    if ignored and rows:
        _LOGGER.warning(
            "%d file(s) below %s are left out because a field breaks its expression in recipe %r: %s",
            *(len(ignored), root, layout.name, ", ".join(ignored[:MAX_LISTED])),
        )
    if not rows:
        there = ignored or sorted(os.listdir(root))
        kind = "files in this layout, whose names break the expressions," if ignored else "entries"
        listed = ", ".join(there[:MAX_LISTED]) + (f" and {len(there) - MAX_LISTED} more" if there[MAX_LISTED:] else "")
        raise ManifestError(
            f"Recipe {layout.name!r} finds nothing below {root}. It looked for\n{looked_for}{rule_words}\n"
            f"There are {len(there)} {kind} below the root: {listed or 'none'}. Name the folder that the patterns "
            "start from, or write a recipe of your own."
        )
    _refuse_incomplete(layout, rows, looked_for + rule_words)
    columns = ["patient_id", "case_id", *layout.meta, *layout.roles]
    table = pd.DataFrame([rows[case_id] for case_id in sorted(rows)], columns=columns, dtype="string")
    return table.drop(columns=[role for role in layout.roles if table[role].isna().all()])


def _refuse_incomplete(layout: Recipe, rows: Mapping[str, Mapping[str, str]], looked_for: str) -> None:
    grouped = {role for group in layout.one_of for role in group}
    required = [role for role in layout.roles if role not in grouped and role not in layout.optional_roles]
    problems = []
    for case_id, row in sorted(rows.items()):
        there = [role for role in layout.roles if role in row]
        wrong = [f"no {role!r}" for role in required if role not in row]
        for group in layout.one_of:
            if (count := sum(role in row for role in group)) != 1:
                wrong.append(f"{count or 'none'} of {' | '.join(group)} where exactly one is needed")
        if wrong:
            problems.append(f"  {case_id}: {', '.join(wrong)}; found {', '.join(row[role] for role in there)}")
    if problems:
        rest = [f"  ... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        raise ManifestError(
            "\n".join(
                [
                    f"{len(problems)} of {len(rows)} cases are incomplete for recipe {layout.name!r}:",
                    *problems[:MAX_LISTED],
                    *rest,
                    f"It looked for\n{looked_for}",
                    "Complete the folders, move incomplete ones away, or list the role in 'optional_roles' of a "
                    "copy of the recipe.",
                ]
            )
        )


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: values[match[1]], template)


def _meta_template(rule: Any) -> str:
    return rule if isinstance(rule, str) else rule["from"]


def _meta_value(column: str, rule: Any, values: Mapping[str, str]) -> str:
    text = _fill(_meta_template(rule), values)
    if isinstance(rule, str):
        return text
    if match := re.fullmatch(rule["regex"], text):
        return match[1]
    raise ManifestError(f"Metadata {column!r}: {text!r} does not match {rule['regex']!r}. Correct the recipe's 'meta'.")


def _validated(content: Any, file: Path) -> Recipe:
    """Refuse a recipe that could not be followed, before any folder is searched."""

    def refuse(problem: str, way_out: str) -> ManifestError:
        return ManifestError(f"Recipe {file}: {problem}. {way_out}.")

    known = [entry.name for entry in fields(Recipe)]
    if not isinstance(content, dict):
        raise refuse(f"the content is a {type(content).__name__}, not a mapping", f"It has the keys {', '.join(known)}")
    if unknown := [key for key in content if key not in known]:
        raise refuse(f"key {unknown[0]!r} is unknown", f"Keys are {', '.join(known)}: rename or remove it")
    if missing := [key for key in ("name", "description", "source", "roles") if not content.get(key)]:
        raise refuse(f"key {missing[0]!r} is missing", "Add it")
    if not isinstance(content["roles"], dict):
        raise refuse("'roles' is not a mapping", "Write one line 'role: [pattern, ...]' per role")
    content["roles"] = {
        role: [patterns] if isinstance(patterns, str) else patterns for role, patterns in content["roles"].items()
    }
    for key, kind in (("patterns", dict), ("meta", dict), ("optional_roles", list), ("one_of", list)):
        if not isinstance(content.get(key, kind()), kind):
            raise refuse(f"{key!r} is a {type(content[key]).__name__}, not a {kind.__name__}", "Correct its form")
    recipe = Recipe(**content)
    for name, expression in recipe.patterns.items():
        try:
            re.compile(expression)
        except (re.error, TypeError) as error:
            raise refuse(f"pattern of field {name!r} is no regular expression ({error})", "Correct it") from error
    for column, rule in recipe.meta.items():
        if not is_metadata(column):
            raise refuse(f"meta column {column!r} is not metadata", "Use site, age, sex, provenance or 'meta_...'")
        if not isinstance(rule, str) and not (isinstance(rule, dict) and set(rule) == {"from", "regex"}):
            raise refuse(
                f"meta column {column!r} is {rule!r}", "Write a template, or {from: template, regex: expression}"
            )
    for name in [*recipe.optional_roles, *(role for group in recipe.one_of for role in group)]:
        if name not in recipe.roles:
            raise refuse(f"{name!r} is not one of the roles {', '.join(recipe.roles)}", "Correct the name")
    templates = [recipe.patient_id, recipe.case_id, *map(_meta_template, recipe.meta.values())]
    needed = {name for template in templates for name in _FIELD.findall(template)}
    for role, patterns in recipe.roles.items():
        if not is_role(role):
            raise refuse(f"{role!r} is not a role but a reserved column", "Rename the role")
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise refuse(f"role {role!r} is {patterns!r}", "Write one pattern or a list of patterns in quotes")
        for pattern in patterns:
            if pattern.startswith("/") or ".." in pattern.split("/"):
                raise refuse(f"pattern {pattern!r} leaves the root", "Write it relative to the root, without '..'")
            if lacking := sorted(needed - set(_FIELD.findall(pattern))):
                raise refuse(
                    f"pattern {pattern!r} lacks the field {lacking[0]!r}", "Every pattern holds all fields used"
                )
    return recipe

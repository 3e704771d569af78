"""Error messages for the configuration file, in terms of the file and not of the parser."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from edgec.device_agent.config.toml_lines import key_lines, line_of

_PLAIN = {
    "missing": "is missing",
    "string_pattern_mismatch": "a name has up to 64 letters, digits, '.', '_' or '-', a letter or digit first",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "list_type": "must be a list, written in [ ]",
    "tuple_type": "must be a list, written in [ ]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "dataclass_type": "must be a table",
    "too_short": "needs {min_length} entries or more, not {actual_length}",
    "too_long": "takes {max_length} entries at most, not {actual_length}",
}
"""Messages by pydantic's error type, formatted with the values in its context."""


def describe(error: ValidationError, root: type[BaseModel], path: Path, text: str) -> str:
    """Return the first error as `file:line: key: message`, with the number of further ones."""
    first = error.errors(include_url=False, include_input=False)[0]
    # The location also names the alternatives of a union, which are not keys of the file.
    location = [part for part in first["loc"] if not (isinstance(part, str) and ("[" in part or "(" in part))]
    message = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    message = message.format_map(first.get("ctx") or {}) if first["type"] in _PLAIN else message
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        message = "unknown key" + suggest(str(location[-1]), _fields_at(root, location[:-1]))
    if not location and message.startswith(("streams.", "capture.")):
        key, _, message = message.partition(": ")
        location = list(key.split("."))
        if "rules" in location[:-1]:
            place = location.index("rules") + 1
            location[place] = int(location[place])
    line = line_of(location, key_lines(text)) if text else None
    where = f"{path}:{line}" if line else str(path)
    more = error.error_count() - 1
    return f"{where}: {_shown(location)}: {message}" + (f" (and {more} more)" if more else "")


def _shown(location: Sequence[str | int]) -> str:
    """Format a key path for a reader: list entries count from one."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def suggest(word: str, known: list[str]) -> str:
    """Return a hint: the closest known word, else all of them, or nothing if there are none."""
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _fields_at(root: type[BaseModel], location: list[str | int]) -> list[str]:
    """Return the keys allowed in the table at `location`."""
    current: Any = root
    for part in location:
        table = _table_in(current)
        if part in table:
            current = table[str(part)]
        else:  # a name in a table of tables, or an index of a list
            arguments = get_args(current)
            current = arguments[-1] if arguments else None
    return list(_table_in(current))


def _table_in(annotation: Any) -> dict[str, Any]:  # noqa: ANN401 - any annotation
    """Return the keys, with what each holds, of the table that an annotation stands for, itself or beside None."""
    if get_origin(annotation) in (dict, list):
        return {}
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return {name: field.annotation for name, field in one.model_fields.items()}
        if isinstance(one, type) and is_dataclass(one):
            hints = get_type_hints(one)
            return {field.name: hints[field.name] for field in fields(one)}
    return {}

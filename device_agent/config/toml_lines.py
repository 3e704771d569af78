"""Line numbers of the keys of a TOML file, which the standard library's parser does not report."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")

Path = tuple[str | int, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Return the 1-based line of every table and key of a valid TOML document that begins a line."""
    lines: dict[Path, int] = {}
    tables: dict[Path, int] = {}
    prefix: Path = ()
    quote = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quote:
            quote = "" if quote in line else quote
            continue
        if header := _HEADER.match(line):
            prefix = _resolve(_parts(header[2]), tables)
            if header[1] == "[[":
                tables[prefix] = tables.get(prefix, -1) + 1
                prefix = (*prefix, tables[prefix])
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            path = (*prefix, *_parts(key[1]))
            for length in range(len(prefix) + 1, len(path) + 1):
                lines.setdefault(path[:length], number)
            rest = line[key.end() :]
            for mark in ('"""', "'''"):
                if rest.count(mark) == 1:
                    quote = mark
    return lines


def line_of(path: Sequence[str | int], lines: dict[Path, int]) -> int | None:
    """Return the line of `path`, or of the nearest enclosing table."""
    for length in range(len(path), 0, -1):
        if (number := lines.get(tuple(path[:length]))) is not None:
            return number
    # A table that exists only through its sub-tables, such as `streams` in `[streams.door]`.
    return min((line for key, line in lines.items() if key[:1] == tuple(path[:1])), default=None)


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _resolve(parts: Path, tables: dict[Path, int]) -> Path:
    """Insert the index of the latest element after each part that names an array of tables."""
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if position < len(parts) - 1 and path in tables:
            path = (*path, tables[path])
    return path

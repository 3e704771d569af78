"""The declared parts that cards and configs are made of, and what to say where a document does not fit them.

They are msgspec's structs: importing and checking them takes a hundredth of what it would with a library that builds
its validators in Python, and a device pays that at each start of each process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a document: immutable, compared by value. Keys that it does not have are ignored.

    Subclasses say `kw_only=True` themselves: msgspec does not inherit it.
    """


class StrictPart(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part that people write: a key that it does not have is a mistake."""


def prepare(kind: type[Part]) -> None:
    """Let msgspec work out now what `kind` and all its parts consist of: to be called where they are declared.

    Left to the first document, two threads that read one at the same time end the process with a segmentation fault
    (msgspec 0.22): the second sees what the first has not finished. Imports are one at a time.
    """
    msgspec.json.Decoder(kind)


class Fault(NamedTuple):
    """Where a document is wrong (keys, and positions in lists, from its top) and how."""

    keys: tuple[str, ...]
    message: str


def fault_of(error: msgspec.ValidationError, document: object, kind: type) -> Fault:
    """What `error` says of `document`, which is no `kind`: in terms of keys, with what would be right."""
    said, _, place = str(error).partition(" - at `$")
    keys = tuple(re.findall(r"\w[\w-]*", place))
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", said):
        return Fault((*keys, unknown[1]), "unknown key")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", said):
        return Fault((*keys, missing[1]), "required, and missing")
    if said.startswith("Invalid"):
        choices = " or ".join(map(repr, _choices(msgspec.inspect.type_info(kind), keys)))
        said = f"expected {choices}" if choices else said
    given = _at(document, keys)
    value = f", not {given!r}" if isinstance(given, str | int | float) and "got" not in said else ""
    return Fault(keys, said.replace("`", "").replace("Expected", "expected") + value)


def _at(document: object, keys: Sequence[str]) -> object:
    for key in keys:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, Sequence) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


def _choices(kind: msgspec.inspect.Type, keys: Sequence[str]) -> list[Any]:
    """The values that may stand at `keys` of a `kind`, if they are few: of a literal, or tags of structs."""
    kinds: Iterable[msgspec.inspect.Type] = [kind]
    for key in keys:
        tags = [k.tag for k in _structs(kinds) if k.tag_field == key]
        if tags:
            return tags
        kinds = [field.type for k in _structs(kinds) for field in k.fields if field.encode_name == key]
    return [
        value
        for k in _alternatives(kinds)
        if isinstance(k, msgspec.inspect.LiteralType)
        for value in k.values
    ]


def _alternatives(kinds: Iterable[msgspec.inspect.Type]) -> list[msgspec.inspect.Type]:
    return [one for k in kinds for one in (k.types if isinstance(k, msgspec.inspect.UnionType) else (k,))]


def _structs(kinds: Iterable[msgspec.inspect.Type]) -> list[msgspec.inspect.StructType]:
    return [k for k in _alternatives(kinds) if isinstance(k, msgspec.inspect.StructType)]

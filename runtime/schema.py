"""Base classes of the structs that cards and configs consist of, and messages for documents that do not fit them.

They are msgspec structs: importing and validating takes a hundredth of the time of a library that builds its
validators in Python, and a device pays that time at each start of each process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a document: immutable, compared by value; unknown keys are ignored.

    Subclasses repeat `kw_only=True`: msgspec does not inherit it.
    """


class StrictPart(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part that people write: an unknown key is an error."""


def prepare(kind: type[Part]) -> None:
    """Make msgspec resolve `kind` and all its parts now; call it where they are declared.

    msgspec 0.22 resolves types lazily and not thread-safely: two threads that parse the first document at the same time
    crash with a segmentation fault. Imports are serialised.
    """
    msgspec.json.Decoder(kind)


class Fault(NamedTuple):
    """An error in a document: its path (keys and list indices from the root), and a message."""

    keys: tuple[str, ...]
    message: str


def fault_of(error: msgspec.ValidationError, document: object, kind: type) -> Fault:
    """Translate a validation error into a path and a message that names the valid values."""
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
    """The valid values at `keys` of a `kind` where they can be listed: of a literal, or tags of structs."""
    kinds: Iterable[msgspec.inspect.Type] = [kind]
    for key in keys:
        if key.isdigit():  # an item of a list, whose type `_alternatives` has looked into
            continue
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
    """The members of unions and the items of lists among `kinds`, and the other kinds themselves."""
    found: list[msgspec.inspect.Type] = []
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.UnionType):
            found += _alternatives(kind.types)
        elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
            found += _alternatives([kind.item_type])
        else:
            found.append(kind)
    return found


def _structs(kinds: Iterable[msgspec.inspect.Type]) -> list[msgspec.inspect.StructType]:
    return [k for k in _alternatives(kinds) if isinstance(k, msgspec.inspect.StructType)]

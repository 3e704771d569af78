"""Damage to model files that leaves their structure readable: fields, entries, opcodes and members, not bytes alone."""

from __future__ import annotations

import functools
import io
import itertools
import json
import pickle
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

INTEGERS = (
    0,
    1,
    -1,
    2,
    7,
    16,
    127,
    128,
    255,
    256,
    1 << 15,
    1 << 20,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 32,
    (1 << 63) - 1,
)
FLOATS = (0.0, -1.0, 1e-40, 1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "[bold]", "../../etc/passwd", "\x1b[31m", "a" * 5000, "\udcff", "int32", "NaN")


def protobuf(message: Any, rng: random.Random) -> None:
    """Change one to four fields somewhere in a message, in place."""
    for _ in range(rng.randint(1, 4)):
        messages = list(_messages(message))
        _change(rng.choice(messages), messages, rng)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or (field.message_type.GetOptions().map_entry):
            continue
        for inner in value if field.is_repeated else [value]:
            yield from _messages(inner)


def _change(message: Any, messages: list[Any], rng: random.Random) -> None:
    fields = [
        f for f in message.DESCRIPTOR.fields if not (f.message_type and f.message_type.GetOptions().map_entry)
    ]
    present = [field for field, _ in message.ListFields() if field in fields]
    field = rng.choice(present if present and rng.random() < 0.8 else fields)
    if field.is_repeated:
        _change_list(getattr(message, field.name), field, messages, rng)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.message_type:
        like = [m for m in messages if m.DESCRIPTOR is field.message_type and m is not message]
        if like:
            copy = like[0].FromString(rng.choice(like).SerializeToString())
            getattr(message, field.name).CopyFrom(copy)
        else:
            getattr(message, field.name).SetInParent()
    else:
        _assign(lambda value: setattr(message, field.name, value), field, messages, rng)


def _change_list(values: Any, field: Any, messages: list[Any], rng: random.Random) -> None:
    kind = rng.random()
    if values and kind < 0.25:
        del values[rng.randrange(len(values))]
    elif values and kind < 0.5:
        values.append(values[rng.randrange(len(values))])
    elif len(values) > 1 and kind < 0.6:
        first, second = rng.sample(range(len(values)), 2)
        if field.message_type:
            other = values[second].SerializeToString()
            values[second].CopyFrom(values[first])
            values[first].ParseFromString(other)
        else:
            values[first], values[second] = values[second], values[first]
    elif kind < 0.65:
        del values[:]
    elif field.message_type:
        values.add()
    elif values:
        place = rng.randrange(len(values))
        _assign(lambda value: values.__setitem__(place, value), field, messages, rng)
    else:
        _assign(values.append, field, messages, rng)


def _assign(put: Callable[[Any], Any], field: Any, messages: list[Any], rng: random.Random) -> None:
    kinds = {
        field.CPPTYPE_STRING: TEXTS,
        field.CPPTYPE_BOOL: (True, False),
        field.CPPTYPE_ENUM: (*range(40), 1000, -1),
    }
    kinds |= {field.CPPTYPE_FLOAT: FLOATS, field.CPPTYPE_DOUBLE: FLOATS}
    value: Any = rng.choice(kinds.get(field.cpp_type, INTEGERS))
    if (
        field.cpp_type == field.CPPTYPE_STRING and rng.random() < 0.6
    ):  # a name that stands elsewhere: cycles, doubles
        value = rng.choice(_texts(messages) or ["y"])
    if field.type == field.TYPE_BYTES:
        value = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    with suppress(ValueError, TypeError):  # the type does not hold this one
        put(value)


def _texts(messages: list[Any]) -> list[str]:
    found = []
    for message in messages:
        for field, value in message.ListFields():
            if field.cpp_type == field.CPPTYPE_STRING and field.type != field.TYPE_BYTES:
                found += list(value) if field.is_repeated else [value]
    return found


def tree(value: Any, rng: random.Random) -> Any:
    """Change one to four entries of nested lists, dicts and objects; returns the root."""
    holder = [value]
    for _ in range(rng.randint(1, 4)):
        places = list(_places(holder))
        container, key = rng.choice(places)
        old = _get(container, key)
        kind = rng.random()
        if isinstance(container, dict | list) and kind < 0.15 and container is not holder:
            del container[key]
        elif isinstance(container, list) and kind < 0.25:
            container.append(old)
        elif kind < 0.4:
            other, there = rng.choice(places)
            _set(container, key, _get(other, there))
        else:
            _set(container, key, _another(old, rng))
    return holder[0]


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > 12:
        return
    for key in _keys(value):
        yield value, key
        yield from _places(_get(value, key), depth + 1)


def _keys(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, list):
        return range(min(len(value), 40))
    return list(vars(value)) if hasattr(value, "__dict__") else ()


def _get(container: Any, key: Any) -> Any:
    return container[key] if isinstance(container, dict | list) else getattr(container, key)


def _set(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, dict | list):
        container[key] = value
    else:
        setattr(container, key, value)


def _another(old: Any, rng: random.Random) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice(INTEGERS)
    if isinstance(old, float):
        return rng.choice(FLOATS)
    if isinstance(old, str):
        return rng.choice((*TEXTS, str(rng.choice(INTEGERS)), old[:-1], old + "0"))
    if isinstance(old, bytes):
        return old[: len(old) // 2]
    return rng.choice((None, [], {}, 0, "", old))


Way = tuple[Any, ...]  # keys, from the root to an entry
Read = tuple[int, str, int]  # position, format of `struct`, and size in bytes


def ways(value: Any) -> Iterator[Way]:
    """The ways to all entries of nested lists, dicts and objects."""

    def inside(value: Any, way: Way) -> Iterator[Way]:
        for key in _keys(value) if len(way) <= 12 else ():
            yield (*way, key)
            yield from inside(_get(value, key), (*way, key))

    return inside(value, ())


def at_ways(root: Any, places: Sequence[Way], rng: random.Random) -> None:
    """Change one to four entries, as `tree` does, at ways that were found before."""
    for _ in range(rng.randint(1, 4)):
        *way, key = rng.choice(places)
        with suppress(
            LookupError, AttributeError, TypeError
        ):  # changed before, so that it is not there any more
            container, kind = _follow(root, way), rng.random()
            old = _get(container, key)
            if isinstance(container, dict | list) and kind < 0.15:
                del container[key]
            elif isinstance(container, list) and kind < 0.25:
                container.append(old)
            elif kind < 0.4:
                _set(container, key, _follow(root, rng.choice(places)))
            else:
                _set(container, key, _another(old, rng))


def _follow(root: Any, way: Sequence[Any]) -> Any:
    return functools.reduce(_get, way, root)


@contextmanager
def recorded(reads: list[Read]) -> Iterator[None]:
    """Record what is read of a FlatBuffer: table entries, offsets, lengths and numbers."""
    from flatbuffers import encode

    original = encode.Get

    def get(packer: Any, buffer: Any, head: int) -> Any:
        reads.append((head, packer.format, packer.size))
        return original(packer, buffer, head)

    with mock.patch.object(encode, "Get", get):
        yield


def in_place(content: bytes, reads: Sequence[Read], rng: random.Random) -> bytes:
    """Change one to three of the numbers that a reader reads: another value, or that of another place of its type."""
    made = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        position, form, size = rng.choice(reads)
        other, _, wide = rng.choice(reads)
        (old,) = struct.unpack_from(form, made, position)
        if isinstance(old, bool | float):
            struct.pack_into(form, made, position, rng.choice(FLOATS) if isinstance(old, float) else not old)
        elif rng.random() < 0.3 and wide == size:
            made[position : position + size] = made[other : other + size]
        else:
            value = old + rng.choice((-4, -1, 1, 4)) if rng.random() < 0.3 else rng.choice(INTEGERS)
            made[position : position + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(made)


def json_text(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(tree(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def lines(content: bytes, rng: random.Random) -> bytes:
    """Change lines of `key=value value …`."""
    rows = content.decode().split("\n")
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(rows))
        key, mark, rest = rows[place].partition("=")
        values = rest.split(" ")
        kind = rng.random()
        if kind < 0.1:
            del rows[place]
            rows = rows or [""]
        elif kind < 0.2:
            rows.insert(rng.randrange(len(rows)), rows[place])
        elif kind < 0.3:
            rows[place] = f"{key}{mark}{' '.join(values[: len(values) // 2])}"
        else:
            values[rng.randrange(len(values))] = str(rng.choice((*INTEGERS, *FLOATS, *TEXTS)))
            rows[place] = f"{key}{mark}{' '.join(values)}"
    return "\n".join(rows).encode("utf-8", "surrogatepass")


def numbers(content: bytes, rng: random.Random) -> bytes:
    """Change aligned integers, and cut or repeat stretches, of a binary file."""
    made = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        kind, place = rng.random(), 4 * rng.randrange(max(len(made) // 4, 1))
        if kind < 0.7:
            width = rng.choice("iq")
            value = rng.choice(INTEGERS) & (0xFFFFFFFF if width == "i" else 0xFFFFFFFFFFFFFFFF)
            packed = struct.pack("<" + width.upper(), value)
            made[place : place + len(packed)] = packed
        elif kind < 0.85:
            del made[place : place + rng.choice((1, 4, 100, len(made)))]
        else:
            made[place:place] = made[place : place + rng.choice((4, 64))]
    return bytes(made)


def pickled(content: bytes, rng: random.Random) -> bytes:
    """Drop, repeat and exchange opcodes of a pickle, and change their arguments; or only numbers in arguments."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None] + [len(content)]
    parts = [content[a:b] for a, b in itertools.pairwise(places)]
    if rng.random() < 0.5:
        holders = [i for i, part in enumerate(parts) if part[:1] in NUMBERS or len(part) > 24]
        for place in rng.sample(holders, min(len(holders), rng.randint(1, 3))):
            parts[place] = _with_number(parts[place], rng)
        return b"".join(parts)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(parts)), rng.random()
        if kind < 0.2 and len(parts) > 1:
            del parts[place]
        elif kind < 0.4:
            parts.insert(place, rng.choice(parts))
        elif kind < 0.6:
            other = rng.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        else:
            parts[place] = parts[place][:1] + numbers(parts[place][1:] or b"\0", rng)
    return b"".join(parts)


NUMBERS = (pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.NEWTRUE, pickle.NEWFALSE)


def _with_number(part: bytes, rng: random.Random) -> bytes:
    """An opcode with another number as its argument, or within the bytes of an array."""
    code, rest = part[:1], bytearray(part[1:])
    if code in (pickle.NEWTRUE, pickle.NEWFALSE):
        return rng.choice((pickle.NEWTRUE, pickle.NEWFALSE, pickle.NONE, pickle.EMPTY_TUPLE))
    if code == pickle.BINFLOAT:
        return code + struct.pack(">d", rng.choice(FLOATS))
    value, size = rng.choice(INTEGERS), min(len(rest), 4)
    place = 0 if len(rest) <= 4 else rng.randrange(12, len(rest) - 4)
    rest[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return code + bytes(rest)


def archive(content: bytes, rng: random.Random) -> bytes:
    """Change members of a zip file: names, JSON inside, pickles inside, lengths, compression."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = [(info.filename, file.read(info)) for info in file.infolist()]
    for _ in range(rng.randint(1, 3)):
        place, kind = rng.randrange(len(members)), rng.random()
        name, inside = members[place]
        if kind < 0.15 and len(members) > 1:
            del members[place]
        elif kind < 0.25:
            members.append(rng.choice(members))
        elif kind < 0.4:
            members[place] = (
                rng.choice((*TEXTS[:4], "config.json", "data.pkl", rng.choice(members)[0])),
                inside,
            )
        elif kind < 0.5:
            members[place] = name, inside[: rng.randrange(len(inside) + 1)]
        else:
            members[place] = name, _inside(name, inside, rng)
    made = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as file:
        for name, inside in members:
            file.writestr((name.encode("utf-8", "replace").decode() or "empty")[:1000], inside)
    whole = made.getvalue()
    return numbers(whole, rng) if rng.random() < 0.2 else whole


def _inside(name: str, inside: bytes, rng: random.Random) -> bytes:
    try:
        if name.endswith(".json"):
            return json_text(inside, rng)
        if name.endswith(".pkl"):
            return pickled(inside, rng)
    except (ValueError, KeyError, IndexError):
        pass  # changed before, so that it cannot be read any more
    return numbers(inside, rng)

"""A reader and a writer of Universal Binary JSON (draft 12), in which XGBoost stores models by default.

Arrays of one number type become numpy arrays. https://ubjson.org
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MAX_DEPTH = 64
_NUMBERS = {
    b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8",
}  # fmt: skip
_MARKS = {dtype: mark for mark, dtype in _NUMBERS.items()}
_SIMPLE = {b"Z": None, b"T": True, b"F": False}


class UbjsonError(ValueError):
    """The bytes are not UBJSON."""


def decode(content: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode the value in the bytes.

    Raises:
        UbjsonError: cut short, nested too deep, or not UBJSON.
    """
    return _Decoder(content).value(0)


class _Decoder:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) < size:
            raise UbjsonError("cut short")
        self.at += size
        return part

    def marker(self) -> bytes:
        while (mark := self.take(1)) == b"N":
            pass
        return mark

    def number(self, mark: bytes) -> int | float:
        dtype = np.dtype(_NUMBERS[mark])
        value: int | float = np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()
        return value

    def length(self) -> int:
        mark = self.marker()
        if mark not in _NUMBERS or mark in b"dD":
            raise UbjsonError(f"a length of type {mark!r}")
        size = int(self.number(mark))
        if not 0 <= size <= len(self.content):
            raise UbjsonError(f"a length of {size}")
        return size

    def text(self) -> str:
        try:
            return self.take(self.length()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UbjsonError("text that is not UTF-8") from error

    def value(self, depth: int, mark: bytes = b"") -> Any:  # noqa: ANN401
        mark = mark or self.marker()
        if depth > MAX_DEPTH:
            raise UbjsonError("nested too deep")
        if mark in _NUMBERS:
            return self.number(mark)
        if mark in _SIMPLE:
            return _SIMPLE[mark]
        if mark == b"C":
            return self.take(1).decode("latin-1")
        if mark in (b"S", b"H"):
            return self.text()
        if mark == b"[":
            return self.array(depth)
        if mark == b"{":
            return self.object(depth)
        raise UbjsonError(f"the unknown type {mark!r}")

    def header(self) -> tuple[bytes, int | None]:
        """The type of all elements and their number, where the container declares them."""
        kind, size = b"", None
        if self.content[self.at : self.at + 1] == b"$":
            self.at += 1
            kind = self.take(1)
        if self.content[self.at : self.at + 1] == b"#":
            self.at += 1
            size = self.length()
        if kind and size is None:
            raise UbjsonError("a typed container without a length")
        return kind, size

    def array(self, depth: int) -> Any:  # noqa: ANN401
        kind, size = self.header()
        if kind in _NUMBERS and size is not None:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(size * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))
        items: list[Any] = []
        while size is None or len(items) < size:
            mark = kind or self.marker()
            if size is None and mark == b"]":
                break
            items.append(self.value(depth + 1, mark))
        return items

    def object(self, depth: int) -> dict[str, Any]:
        kind, size = self.header()
        items: dict[str, Any] = {}
        count = 0
        while size is None or count < size:
            if size is None and self.content[self.at : self.at + 1] == b"}":
                self.at += 1
                break
            name = self.text()
            items[name] = self.value(depth + 1, kind or self.marker())
            count += 1
        return items


def encode(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The value as UBJSON; numpy arrays of one dimension become arrays of one number type."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:  # noqa: ANN401
    if isinstance(value, dict):
        parts.append(b"{")
        for name, inner in value.items():
            parts.append(_text(name))
            _encode(inner, parts)
        parts.append(b"}")
    elif isinstance(value, list):
        parts.append(b"[#" + _length(len(value)))
        for inner in value:
            _encode(inner, parts)
    elif isinstance(value, np.ndarray):
        stored = value.astype(value.dtype.newbyteorder(">"))
        parts.append(b"[$" + _MARKS[stored.dtype.str.replace("|", ">")] + b"#" + _length(stored.size))
        parts.append(stored.tobytes())
    elif isinstance(value, str):
        parts.append(b"S" + _text(value))
    elif isinstance(value, float):
        parts.append(b"d" + struct.pack(">f", value))
    else:
        parts.append(_length(value))


def _length(size: int) -> bytes:
    return b"L" + struct.pack(">q", size)


def _text(text: str) -> bytes:
    stored = text.encode()
    return _length(len(stored)) + stored


__all__ = ["UbjsonError", "decode", "encode"]

"""Common parts of all messages between the agent's processes.

Each package with a process of its own declares its messages in its `messages` module: one tagged union for each
direction. They are `msgspec` structs, not pydantic models: importing pydantic would be a third of a capture process's
start. A message travels as JSON with its type under `op`. The supervisor and its children are always of one version,
so an unknown or malformed message is a defect, and `Channel.receive` raises it as an error that names the message.
"""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower):
    """Anything that a channel carries."""


def encode_plain(value: object) -> object:
    """Encode what `msgspec` does not know: paths, and numpy's scalars."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"a message cannot carry a {type(value).__name__}")


def decode_plain(kind: type[Any], value: object) -> object:
    """Decode what `encode_plain` encoded."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"a message cannot carry a {kind.__name__}")


def decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - a union of message types
    """Return a decoder of a message type, or of a union of them."""
    return msgspec.json.Decoder(kind, dec_hook=decode_plain)

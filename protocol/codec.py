"""Encoding and decoding of messages: JSON with a schema version; unknown fields are ignored."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgec.protocol.errors import ProtocolError

MAX_PAYLOAD_BYTES = 128 * 1024
"""Largest MQTT payload that either side accepts; pictures, clips and models travel over HTTP instead."""


class Message(BaseModel):
    """Base class of all messages: immutable, and tolerant of fields added by later versions.

    Attributes:
        schema_version: Incremented by compatible additions. A change that old readers cannot ignore gets a new
            topic prefix (`edgec/v2`) instead.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    SCHEMA: ClassVar[int] = 1

    schema_version: int = Field(default=1, ge=1)


M = TypeVar("M", bound=BaseModel)


def encode(message: BaseModel) -> bytes:
    """Return the message as compact JSON.

    Raises:
        ProtocolError: The payload exceeds `MAX_PAYLOAD_BYTES`.
    """
    payload = message.model_dump_json(exclude_none=True).encode()
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(
            f"{type(message).__name__} of {len(payload)} bytes is longer than {MAX_PAYLOAD_BYTES}"
        )
    return payload


def decode(kind: type[M], payload: bytes | bytearray | memoryview | str) -> M:
    """Parse `payload` as a message of the class `kind`.

    Raises:
        ProtocolError: The payload is too long, is not JSON or does not match the schema; the text names the first
            invalid field.
    """
    data = payload if isinstance(payload, str) else bytes(payload)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"{kind.__name__} of {len(data)} bytes is longer than {MAX_PAYLOAD_BYTES}")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"{kind.__name__}{': ' + where if where else ''}: {first['msg']}") from error

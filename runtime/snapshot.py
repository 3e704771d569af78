"""Snapshots of a session's state: bytes that another session of the same model, on any device, continues from.

Layout: a magic, the SHA-256 of the rest, the length of a JSON header (8 bytes, little-endian), the header, and the
values of all states in its order, in C order and little-endian. States are as in the source model, so a snapshot does
not depend on the target that the model was compiled for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, StateSpec
from edgec.runtime.errors import InputError
from edgec.runtime.execution.ffi_layout import Array

MAGIC = b"edgecST1"
_DIGEST, _LENGTH = 32, 8
_BEGIN = len(MAGIC) + _DIGEST


def pack(config: ArtifactConfig, values: Mapping[str, Array]) -> bytes:
    """A snapshot of the values of a model's states, by the names of their inputs."""
    header = header_of(config)
    parts = [len(header).to_bytes(_LENGTH, "little"), header]
    for state in config.states:
        little = np.dtype(state.dtype).newbyteorder("<")
        parts.append(np.ascontiguousarray(values[state.input]).astype(little, copy=False).tobytes())
    content = b"".join(parts)
    return MAGIC + hashlib.sha256(content).digest() + content


def unpack(config: ArtifactConfig, snapshot: bytes) -> dict[str, Array]:
    """The values of a model's states by the names of their inputs.

    Raises:
        InputError: damaged, or of another model, another version or other states.
    """
    if not isinstance(snapshot, bytes | bytearray | memoryview):
        raise InputError(f"a snapshot is bytes, not {type(snapshot).__name__}")
    snapshot = bytes(snapshot)
    if snapshot[: len(MAGIC)] != MAGIC:
        raise InputError("these bytes are no snapshot of a session: it would begin with " + MAGIC.decode())
    content = snapshot[_BEGIN:]
    if hashlib.sha256(content).digest() != snapshot[len(MAGIC) : _BEGIN]:
        raise InputError(
            "the snapshot is cut short or damaged (its digest differs); start with reset() instead"
        )
    length = int.from_bytes(content[:_LENGTH], "little")
    held = json.loads(content[_LENGTH : _LENGTH + length])
    _check(config, held)
    values, at = {}, _LENGTH + length
    for state in config.states:
        kind = np.dtype(state.dtype)
        size = math.prod(state.shape) * kind.itemsize
        flat = np.frombuffer(content[at : at + size], kind.newbyteorder("<"))
        values[state.input] = flat.astype(kind).reshape(state.shape)
        at += size
    return values


def header_of(config: ArtifactConfig) -> bytes:
    """The JSON header of a snapshot of a model's states."""
    return json.dumps(_header(config), separators=(",", ":"), sort_keys=True).encode()


def _header(config: ArtifactConfig) -> dict[str, Any]:
    return {
        "model": config.name,
        "version": config.version,
        "source_sha256": config.provenance.source_sha256,
        "states": [_described(state) for state in config.states],
    }


def _described(state: StateSpec) -> list[Any]:
    return [state.input, state.dtype, list(state.shape)]


def _check(config: ArtifactConfig, held: Mapping[str, Any]) -> None:
    mine = _header(config)
    for key, told in (("model", "model"), ("version", "version")):
        if held[key] != mine[key]:
            raise InputError(
                f"the snapshot is of {told} {held[key]!r}, and this session of {told} {mine[key]!r}; "
                "start with reset() instead"
            )
    if held["source_sha256"] != mine["source_sha256"]:
        raise InputError(
            f"the snapshot is of another model file than {config.name} {config.version} was compiled from; "
            "start with reset() instead"
        )
    if held["states"] != mine["states"]:
        theirs = ", ".join(f"{name!r} {dtype}{shape}" for name, dtype, shape in held["states"])
        raise InputError(f"the snapshot has other states than {config.name}: {theirs or 'none'}")

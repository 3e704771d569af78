"""Artifacts that are wrong on purpose, for libedgec's loader: their structure is changed, and digests are made to fit.

So a change reaches the code behind the check of the digests. Each is made from a seed of its own.
"""

from __future__ import annotations

import copy
import io
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgec.runtime as rt
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.artifact.writer import write_tar

NUMBERS = (
    -1,
    0,
    1,
    2,
    63,
    64,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**36,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    0.5,
    1e300,
)
WORDS: tuple[Any, ...] = (
    "", "x", "x" * 5000, "\u0000", "\ud83d\ude00", "%s%n", "../../etc/passwd", "float32", "int8", "result", "arena",
    "input", "weight", None, True, False, [], {}, [[]], {"": {}},
)  # fmt: skip
FIELDS = (
    0,
    1,
    7,
    0xFF,
    0x1000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)


class Parts:
    """An artifact taken apart."""

    def __init__(self, path: Path) -> None:
        artifact = rt.Artifact.open(path)
        self.annotations = dict(artifact.manifest.annotations)
        self.config = bytes(artifact.blob(artifact.manifest.config.digest))
        self.layers = [
            (one.media_type, one.title, bytes(artifact.blob(one.digest))) for one in artifact.layers
        ]

    def copy(self) -> Parts:
        made = copy.copy(self)
        made.layers = list(self.layers)
        return made

    def change(self, title: str, with_: Callable[[bytes], bytes]) -> None:
        """Replace the content of a layer."""
        self.layers = [
            (kind, name, with_(content) if name == title else content) for kind, name, content in self.layers
        ]

    def write(self, manifest_change: Callable[[bytes], bytes] = lambda content: content) -> bytes:
        """The artifact with digests that fit; the change is of the manifest's bytes."""
        config = Descriptor(oci.CONFIG_TYPE, oci.digest_of(self.config), len(self.config))
        layers = [
            Descriptor(kind, oci.digest_of(content), len(content), title)
            for kind, title, content in self.layers
        ]
        manifest = Manifest(config, tuple(layers), self.annotations)
        blobs = {config.digest: [self.config]} | {
            one.digest: [content] for one, (_, _, content) in zip(layers, self.layers, strict=True)
        }
        made = io.BytesIO()
        write_tar(made, manifest, manifest_change(manifest.to_bytes()), blobs)
        return made.getvalue()


def mutant(parts: Parts, seed: int) -> bytes:
    """An artifact with one to three changes."""
    rng, made = random.Random(seed), parts.copy()
    manifest: Callable[[bytes], bytes] = lambda content: content  # noqa: E731
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(("config", "program", "program", "weights", "code", "code", "manifest", "tar"))
        if kind == "config":
            made.config = changed_json(made.config, rng)
        elif kind == "program":
            made.change("program.json", lambda content: changed_json(content, rng))
        elif kind == "weights":
            made.change("weights.safetensors", lambda content: changed_weights(content, rng))
        elif kind == "code":
            made.change("model.so", lambda content: changed_elf(content, rng))
        elif kind == "manifest":
            manifest = lambda content: changed_json(content, rng)  # noqa: E731
    content = made.write(manifest)
    return changed_bytes(content, rng) if kind == "tar" else content


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """A document in which a value is another, is missing, or is there twice; or its text is damaged."""
    if rng.random() < 0.1:
        return changed_bytes(content, rng)
    try:
        document = json.loads(content)
    except ValueError:
        return content
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in items:
            places.append((value, key))
            walk(inner)

    walk(document)
    if not places:
        return content
    holder, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif action == 2:
        other, where = rng.choice(places)
        if where in other if isinstance(other, dict) else where < len(other):
            holder[key] = copy.deepcopy(other[where])
    elif action == 3 and isinstance(holder[key], int):
        holder[key] += rng.choice((-64, -1, 1, 64))
    elif action == 4:
        holder[key] = rng.choice(WORDS)
    else:
        holder[key] = rng.choice(NUMBERS)
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=rng.random() < 0.5)
    return text.encode(errors="surrogatepass")


def changed_weights(content: bytes, rng: random.Random) -> bytes:
    """A blob of weights with another header, or another length of it."""
    (length,) = struct.unpack_from("<Q", content)
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice(FIELDS)) + content[8:]
    header = changed_json(content[8 : 8 + length], rng)
    header += b" " * (-(8 + len(header)) % 64)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def changed_elf(content: bytes, rng: random.Random) -> bytes:
    """A library with another number in one of the tables that a loader reads."""
    made = bytearray(content)
    start, count = struct.unpack_from("<Q", made, 32)[0], struct.unpack_from("<H", made, 56)[0]
    tables = [(16, 48), (start, 56 * count)]
    sections, of_sections = struct.unpack_from("<Q", made, 40)[0], struct.unpack_from("<H", made, 60)[0]
    for number in range(of_sections):
        if sections + 64 * (number + 1) > len(made):
            break
        kind, _, _, at, size = struct.unpack_from("<IQQQQ", made, sections + 64 * number + 4)
        if kind in (3, 4, 5, 6, 11):  # strings, relocations, hash, dynamic, symbols
            tables.append((at, size))
    at, size = rng.choice(tables)
    width = rng.choice((1, 2, 4, 8))
    place = at + rng.randrange(max(1, size // width)) * width
    if place + width <= len(made):
        value = rng.choice(FIELDS) & ((1 << 8 * width) - 1)
        made[place : place + width] = value.to_bytes(width, "little")
    return bytes(made)


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes altered, cut off, repeated or added."""
    at = rng.randrange(len(content)) if content else 0
    action = rng.randrange(4)
    if action == 0:
        return content[:at]
    if action == 1:
        return content + bytes(rng.randrange(1, 600))
    if action == 2:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    return content[:at] + content[at : at + 40] + content[at:]

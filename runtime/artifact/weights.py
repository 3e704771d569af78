"""The weights blob: a safetensors file in which every tensor starts on a 64-byte boundary.

safetensors allows no holes between tensors, so the gaps are tensors of their own, named `__pad.N`,
which readers here leave out. Layout: https://github.com/huggingface/safetensors (8 bytes of header
length, JSON, data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgec.runtime.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

ALIGNMENT = 64
_PAD = "__pad."
_HEADER_LIMIT = 100_000_000  # the format's own limit

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class Weight(NamedTuple):
    """One tensor of a weights blob, a view into it. `array` holds bfloat16 as uint16, which numpy has a
    type for.
    """

    array: Array
    dtype: str


def _aligned(size: int) -> int:
    return -size % ALIGNMENT


class WeightsBlob:
    """The bytes of a weights blob, piece by piece, so that no second copy of all weights is ever made."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        entries: dict[str, Any] = {}
        self._pieces: list[Array | bytes] = []
        offset = 0
        for name, tensor in tensors.items():
            if name.startswith("__"):
                raise ValueError(f"{name!r}: names of weights must not start with two underscores")
            array = np.ascontiguousarray(tensor) if tensor.ndim else tensor
            kind = array.dtype.name
            if kind not in _NAMES:
                raise ValueError(f"{name!r}: weights of type {kind} cannot be stored")
            # Scalars and empty tensors too get a place of their own.
            entries[name] = {
                "dtype": _NAMES[kind],
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + array.nbytes],
            }
            offset += array.nbytes
            self._pieces.append(array)
            if gap := _aligned(offset):
                entries[f"{_PAD}{len(entries)}"] = {
                    "dtype": "U8",
                    "shape": [gap],
                    "data_offsets": [offset, offset + gap],
                }
                self._pieces.append(bytes(gap))
                offset += gap
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * _aligned(8 + len(header))
        self._header = len(header).to_bytes(8, "little") + header
        self.size = len(self._header) + offset

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The blob's bytes in order."""
        yield self._header
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            elif piece.nbytes:
                yield piece.reshape(-1).view(np.uint8).data


def read_weights(blob: memoryview) -> dict[str, Weight]:
    """The tensors of a weights blob as views into `blob`, without a copy.

    Raises:
        ArtifactError: the blob is not well-formed, or a tensor does not lie on its boundary.
    """
    try:
        return _read(blob)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"the artifact's weights are not well-formed ({error})") from error


def _read(blob: memoryview) -> dict[str, Weight]:
    length = int.from_bytes(blob[:8], "little")
    if length > min(len(blob) - 8, _HEADER_LIMIT):
        raise ValueError("the header is longer than the file")
    header = json.loads(bytes(blob[8 : 8 + length]))
    data = blob[8 + length :]
    found: dict[str, Weight] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"{name} lies outside the file")
        if name.startswith("__"):
            continue
        dtype = _DTYPES[entry["dtype"]]
        storage = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        shape = tuple(int(size) for size in entry["shape"])
        if any(size < 0 for size in shape) or math.prod(shape) * storage.itemsize != end - begin:
            raise ValueError(f"{name} has another size than its shape says")
        if (8 + length + begin) % ALIGNMENT:
            raise ValueError(f"{name} does not start on a {ALIGNMENT}-byte boundary")
        found[name] = Weight(np.frombuffer(data[begin:end], storage).reshape(shape), dtype)
    return found

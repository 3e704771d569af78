"""The weights blob: a safetensors file in which every tensor starts on a 64-byte boundary.

safetensors allows no gaps between tensors, so the padding consists of tensors named `__pad.N`, which this reader skips.
Layout: https://github.com/huggingface/safetensors (8 bytes of header length, JSON, data).
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
    """One tensor of a weights blob.

    Attributes:
        array: a view into the blob; bfloat16, which numpy lacks, is viewed as uint16.
        dtype: name of the element type.
    """

    array: Array
    dtype: str


def _aligned(size: int) -> int:
    return -size % ALIGNMENT


class WeightsBlob:
    """A weights blob to write, produced in pieces so that the weights are never copied as a whole."""

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
            # Scalars and empty tensors get entries too.
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
    """Parse a weights blob; the tensors are views into `blob`.

    Raises:
        ArtifactError: the blob is malformed, or a tensor is not aligned.
    """
    try:
        return _read(blob)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"the artifact's weights are malformed ({error})") from error


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
            raise ValueError(f"{name} extends beyond the file")
        if name.startswith("__"):
            continue
        dtype = _DTYPES[entry["dtype"]]
        storage = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        shape = tuple(int(size) for size in entry["shape"])
        if any(size < 0 for size in shape) or math.prod(shape) * storage.itemsize != end - begin:
            raise ValueError(f"the size of {name} does not match its shape")
        if (8 + length + begin) % ALIGNMENT:
            raise ValueError(f"{name} does not start on a {ALIGNMENT}-byte boundary")
        found[name] = Weight(np.frombuffer(data[begin:end], storage).reshape(shape), dtype)
    return found

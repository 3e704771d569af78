"""Weights on a GPU, uploaded once for all functions that have them: those of a model for several sets of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from edgec.runtime.gpu.api import GpuApi, Stream

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Key = tuple[int, int, int, int]
_present: WeakValueDictionary[Key, StoredArray] = WeakValueDictionary()


class StoredArray:
    """An array's content on a GPU, released with the last reference.

    Attributes:
        address: where it lies.
    """

    def __init__(self, api: GpuApi, generation: int, array: Array) -> None:
        # The array is kept: its address on the host is what it is known by.
        self._api, self._generation, self._array = api, generation, array
        self.address = api.allocate(max(1, array.nbytes))

    def __del__(self) -> None:
        if hasattr(self, "address") and self._api.generations.has(self._generation):
            self._api.free(self.address)


def _key(api: GpuApi, generation: int, array: Array) -> Key:
    return id(api), generation, array.ctypes.data, array.nbytes


def missing_bytes(api: GpuApi, generation: int, arrays: Sequence[Array]) -> int:
    """How much memory `store` takes: that of arrays which no other function has stored."""
    return sum(array.nbytes for array in arrays if _key(api, generation, array) not in _present)


def store(api: GpuApi, generation: int, array: Array, stream: Stream) -> StoredArray:
    """An array on the GPU; its copy is queued on a stream if it is not there yet.

    Args:
        api: the GPU.
        generation: of its context.
        array: contiguous; it must not change.
        stream: to be waited for before another function is loaded.
    """
    key = _key(api, generation, array)
    found = _present.get(key) if array.nbytes else None
    if found is None:
        found = StoredArray(api, generation, array)
        if array.nbytes:
            stream.copy_in(found.address, array)
            _present[key] = found
    return found

"""Sequences of tensors whose length is known only when a model runs, for compiled code that calls them by name.

A sequence is a list of tvm-ffi. It is a value: a function that changes one returns another list with the same tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.execution.compiled_functions import Array, empty_aligned
from edgec.runtime.execution.shared_libraries import ffi

PREFIX = "edgec.sequence."
_lock = threading.Lock()
_registered: set[str] = set()


def register(names: Sequence[str]) -> None:
    """Make functions known to compiled code, each once in a process.

    Raises:
        IncompatibleDevice: this runtime lacks one.
    """
    for name in names:
        function = FUNCTIONS.get(name.removeprefix(PREFIX))
        if function is None or not name.startswith(PREFIX):
            raise IncompatibleDevice(f"the artifact calls {name}, which this runtime lacks: update edgec")
        with _lock:
            if name not in _registered:
                ffi().register_global_func(name, function, override=True)
                _registered.add(name)


def _construct(*tensors: Any) -> Any:  # noqa: ANN401 - objects of tvm-ffi, which has no static types here
    return ffi().List(list(tensors))


def _at(rows: Sequence[Any], place: Any) -> Any:  # noqa: ANN401
    return rows[_position(place, len(rows))]


def _insert(rows: Sequence[Any], tensor: Any, place: Any = None) -> Any:  # noqa: ANN401
    made = list(rows)
    made.insert(len(made) if place is None else _position(place, len(made), past_end=True), tensor)
    return ffi().List(made)


def _erase(rows: Sequence[Any], place: Any = None) -> Any:  # noqa: ANN401
    made = list(rows)
    del made[len(made) - 1 if place is None else _position(place, len(made))]
    return ffi().List(made)


def _length(rows: Sequence[Any]) -> Any:  # noqa: ANN401
    count = empty_aligned((), np.int64)
    count[...] = len(rows)
    return ffi().from_dlpack(count)


def _position(place: Any, count: int, *, past_end: bool = False) -> int:  # noqa: ANN401
    number = int(np.from_dlpack(place).reshape(-1)[0])
    if not -count <= number < count + past_end:
        raise IndexError(f"position {number} of a sequence of {count}")
    return number + count if number < 0 else number


def _join(rows: Sequence[Any], axis: int, new: int, empty: Sequence[int], dtype: str) -> Any:  # noqa: ANN401
    """The tensors joined along `axis`, a new one if `new`; without any, a tensor of the shape `empty`."""
    arrays: list[Array] = [np.from_dlpack(row) for row in rows]
    if not arrays:
        return ffi().from_dlpack(empty_aligned(tuple(empty), dtype))
    if new:
        arrays = [np.expand_dims(array, axis) for array in arrays]
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    made = empty_aligned(shape, arrays[0].dtype)
    np.concatenate(arrays, axis, out=made)
    return ffi().from_dlpack(made)


def _split(tensor: Any, sizes: Any, axis: int, keeps: int) -> Any:  # noqa: ANN401
    """Parts of a tensor along `axis`: of `sizes`, one number for all or one each, as tensors of their own."""
    array, given = np.from_dlpack(tensor), np.from_dlpack(sizes)
    length = array.shape[axis]
    if given.ndim:
        ends = np.cumsum(given)
        if length != (ends[-1] if len(ends) else 0):
            raise ValueError(f"parts of {given.tolist()} do not add up to {length}")
        cuts = ends[:-1].tolist()
    else:
        cuts = list(range(int(given), length, int(given)))
    parts = np.split(array, cuts, axis) if length else []
    return ffi().List([_own(part if keeps else np.squeeze(part, axis)) for part in parts])


def _fail(why: str) -> None:
    raise ValueError(f"the branch that this run takes does not fit the shapes of the inputs: {why}")


def _own(array: Array) -> Any:  # noqa: ANN401
    made = empty_aligned(array.shape, array.dtype)
    made[...] = array
    return ffi().from_dlpack(made)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "construct": _construct,
    "at": _at,
    "insert": _insert,
    "erase": _erase,
    "length": _length,
    "join": _join,
    "split": _split,
    "fail": _fail,
}

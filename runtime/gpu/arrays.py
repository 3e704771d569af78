"""Arrays that lie on a GPU already, as CuPy, Numba and PyTorch describe them: `__cuda_array_interface__`, version 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgec.runtime.errors import InputError

_INTERFACE = "__cuda_array_interface__"


def on_device(value: Any) -> bool:  # noqa: ANN401 - whatever the caller passed
    """Whether an object is an array on a GPU."""
    return not isinstance(value, np.ndarray | DeviceArray) and hasattr(value, _INTERFACE)


class DeviceArray:
    """An array on a GPU, for one call.

    Attributes:
        address: of its first element.
        shape: its shape.
        dtype: its data type.
        bytes: its size.
        stream: the queue of work that writes it; None where its maker does not say.
        owner: keeps the memory.
    """

    __slots__ = ("address", "bytes", "dtype", "owner", "shape", "stream")

    def __init__(self, value: Any) -> None:  # noqa: ANN401
        """Look at an object with `__cuda_array_interface__`.

        Raises:
            InputError: its elements do not lie side by side.
        """
        told = getattr(value, _INTERFACE)
        self.owner = value
        self.shape = tuple(int(size) for size in told["shape"])
        self.dtype = np.dtype(told["typestr"])
        self.bytes = math.prod(self.shape) * self.dtype.itemsize
        self.address = int(told["data"][0])
        self.stream: int | None = told.get("stream")
        strides = told.get("strides")
        if strides is not None and self.bytes and tuple(strides) != self._dense():
            raise InputError(
                f"an array on the GPU of shape {list(self.shape)} has strides {list(strides)}: its elements must lie "
                "side by side.\nMake it contiguous first: x.contiguous() in PyTorch, cupy.ascontiguousarray(x)."
            )

    def _dense(self) -> tuple[int, ...]:
        strides, step = [], self.dtype.itemsize
        for size in reversed(self.shape):
            strides.append(step)
            step *= size
        return tuple(reversed(strides))

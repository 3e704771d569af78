"""Results that stay on a GPU: other libraries read them without a copy, by DLPack or `__cuda_array_interface__`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.gpu.api import GpuApi, copies
from edgec.runtime.gpu.arrays import CUDA, DeviceArray
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.standalone.dlpack import export

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Pool:
    """Memory for results: that of results which are gone is used again, as the driver takes long to allocate."""

    def __init__(self, api: GpuApi, generation: int) -> None:
        self.api, self.generation = api, generation
        self._free: dict[int, list[int]] = {}
        self._closed = False

    def take(self, size: int) -> int:
        """Memory of a size."""
        free = self._free.get(size)
        try:
            return free.pop() if free else self.api.allocate(max(1, size))
        except IndexError:  # another thread was faster
            return self.api.allocate(max(1, size))

    def give(self, address: int, size: int) -> None:
        """Memory that is not used any more."""
        if not self.api.generations.has(self.generation):
            return
        if self._closed:
            self.api.free(address)
        else:
            self._free.setdefault(size, []).append(address)

    def close(self) -> None:
        """Release what no result uses; the rest goes with its results."""
        self._closed = True
        free, self._free = self._free, {}
        if self.api.generations.has(self.generation):
            for addresses in free.values():
                for address in addresses:
                    self.api.free(address)


class DeviceResult:
    """A result of a run, complete, in memory of the GPU that goes with the last reference.

    `torch.from_dlpack`, `cupy.from_dlpack`, `cupy.asarray` and other models on this GPU read it where it lies;
    `numpy()` and `numpy.asarray` copy it to the host. Any stream may read it, as the run that made it has ended.

    Attributes:
        shape: its shape.
        dtype: its data type.
        address: of its first element on the GPU.
    """

    __slots__ = ("__weakref__", "_pool", "address", "dtype", "nbytes", "shape")

    def __init__(self, pool: Pool, shape: tuple[int, ...], dtype: str) -> None:
        self._pool, self.shape, self.dtype = pool, shape, np.dtype(dtype)
        self.nbytes = math.prod(shape) * self.dtype.itemsize
        self.address = pool.take(self.nbytes)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._pool.give(self.address, self.nbytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
            "strides": None, "stream": None,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._pool.api.ordinal

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: object = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule; no stream has to wait, and any version's reader takes one without a version.

        Raises:
            BufferError: a copy is asked for, or another device.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(
                "a result on the GPU is handed out where it lies: numpy() copies it to the host"
            )
        return export(self, self.address, self.shape, str(self.dtype), self.__dlpack_device__())

    def given(self) -> DeviceArray:
        """It as an input of a model on this GPU."""
        made = DeviceArray(self, self.address, self.shape, str(self.dtype))
        made.generation = self._pool.generation
        return made

    def numpy(self) -> Array:
        """A copy on the host.

        Raises:
            GpuFault: it was lost with the GPU's context, after a fault.
        """
        api = self._pool.api
        array = np.empty(self.shape, self.dtype)
        with api.generations.call() as generation:
            if generation != self._pool.generation:
                raise GpuFault(
                    "this result was lost with the GPU's context, which a fault ended: run the model again"
                )
            with copies(api) as stream:
                stream.copy_out(array, self.address)
        return array

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a result on the GPU cannot be read by the host without a copy")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __repr__(self) -> str:
        return f"DeviceResult({self.dtype}{list(self.shape)} on GPU {self._pool.api.ordinal})"

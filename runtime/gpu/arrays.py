"""Arrays that lie on a GPU already, by DLPack or `__cuda_array_interface__` (of CuPy, Numba, PyTorch and others)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.errors import InputError
from edgec.runtime.standalone.dlpack import described

if TYPE_CHECKING:
    from edgec.runtime.gpu.api import GpuApi, Stream
    from edgec.runtime.gpu.chain import Chain

_INTERFACE = "__cuda_array_interface__"
CUDA = 2  # DLDeviceType of DLPack
_HOST, _PINNED, _MANAGED = 1, 3, 13
_KINDS = {
    4: "an OpenCL device",
    7: "a Vulkan device",
    8: "a Metal device",
    10: "a ROCm device",
    14: "a oneAPI device",
}
_UNKNOWN = object()
_MEND = "Make it contiguous first: x.contiguous() in PyTorch, cupy.ascontiguousarray(x)."


class DeviceArray:
    """An array on a GPU, for one call.

    Attributes:
        address: of its first element.
        shape: its shape.
        dtype: its data type.
        bytes: its size.
        generation: of the GPU's context that it is for.
        owner: keeps the memory.
        chain: of programs, one of which makes it; None for an array that is made, or that the stream of arrivals has.
    """

    __slots__ = ("address", "bytes", "chain", "dtype", "generation", "owner", "shape")

    def __init__(self, owner: object, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.generation = 0
        self.chain: Chain | None = None
        self.owner, self.address, self.shape = owner, address, shape
        self.dtype = np.dtype(dtype)
        self.bytes = math.prod(shape) * self.dtype.itemsize


def place_of(value: Any) -> tuple[int, int] | None:  # noqa: ANN401 - whatever the caller passed
    """Where an array of another library lies, as DLPack's kind and number of a device.

    None for arrays of numpy, and for what is no array. The number is -1 where only the driver knows it.
    """
    if isinstance(value, np.ndarray | DeviceArray):
        return None
    told = getattr(value, "__dlpack_device__", None)
    if told is not None:
        kind, number = told()
        return int(kind), int(number)
    return (CUDA, -1) if hasattr(value, _INTERFACE) else None


def on_host(place: tuple[int, int]) -> bool:
    """Whether numpy can read the array where it lies."""
    return place[0] in (_HOST, _PINNED)


def from_host(name: str, value: Any) -> Any:  # noqa: ANN401
    """An array of numpy with the memory of another library's.

    Raises:
        InputError: numpy has no such type, or the library does not hand it out.
    """
    try:
        return np.from_dlpack(value.detach() if callable(getattr(value, "detach", None)) else value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise InputError(
            f"input {name!r} cannot be read as an array of numpy: {str(error).splitlines()[0]}\n"
            "Convert it first, such as x.float() in PyTorch."
        ) from error


def refused(name: str, place: tuple[int, int], model: str) -> InputError:
    """The error for an array of a device, where the model runs on the processor."""
    where = (
        "a GPU"
        if place[0] in (CUDA, _MANAGED)
        else _KINDS.get(place[0], f"a device of DLPack's kind {place[0]}")
    )
    return InputError(
        f"input {name!r} lies on {where}, and {model} runs on the processor.\n"
        "Copy it to the host first: x.cpu().numpy() in PyTorch, cupy.asnumpy(x)."
    )


def received(api: GpuApi, stream: Stream, name: str, value: Any, place: tuple[int, int]) -> DeviceArray:  # noqa: ANN401
    """An array of another library on this GPU; what `stream` does from now on comes after what writes it.

    Raises:
        InputError: it lies on another device, its elements do not lie side by side, numpy has no such type, or its
            library does not hand it out.
    """
    kind, number = place
    if kind not in (CUDA, _MANAGED) or (kind == CUDA and number not in (-1, api.ordinal)):
        where = f"GPU {number}" if kind == CUDA else _KINDS.get(kind, f"a device of DLPack's kind {kind}")
        raise InputError(
            f"input {name!r} lies on {where}, and the model runs on GPU {api.ordinal}.\n"
            f"Copy it there first: x.to('cuda:{api.ordinal}') in PyTorch; CUDA_VISIBLE_DEVICES chooses the model's GPU."
        )
    made = _by_interface(api, stream, name, value) if number == -1 else _by_dlpack(stream, name, value)
    if made.bytes and number == -1 and api.ordinal_of(made.address) != api.ordinal:
        raise InputError(
            f"input {name!r} does not lie on GPU {api.ordinal}, on which the model runs.\n"
            "Copy it there first; CUDA_VISIBLE_DEVICES chooses the model's GPU."
        )
    return made


def _by_dlpack(stream: Stream, name: str, value: Any) -> DeviceArray:  # noqa: ANN401
    """By DLPack: the library makes the stream wait itself."""
    try:
        found = described(value.__dlpack__(stream=stream.handle))
    except (BufferError, RuntimeError) as error:  # PyTorch's, such as for a tensor that requires its gradient
        raise InputError(
            f"input {name!r} cannot be read by DLPack: {str(error).splitlines()[0]}\n"
            "Pass a plain array: x.detach() in PyTorch."
        ) from error
    if found.strides is not None:
        raise InputError(
            f"input {name!r} on the GPU, of shape {list(found.shape)}, has strides {list(found.strides)} in elements: "
            f"its elements must lie side by side.\n{_MEND}"
        )
    if found.dtype not in np.sctypeDict or np.dtype(found.dtype).isbuiltin != 1:
        raise InputError(
            f"input {name!r} on the GPU is of {found.dtype}, which inputs of models are not.\n"
            "Convert it there: x.float() in PyTorch."
        )
    return DeviceArray(found.capsule, found.address, found.shape, found.dtype)


def _by_interface(api: GpuApi, stream: Stream, name: str, value: Any) -> DeviceArray:  # noqa: ANN401
    """By `__cuda_array_interface__`, version 3 or earlier."""
    try:
        told = getattr(value, _INTERFACE)
    except (AttributeError, RuntimeError) as error:
        raise InputError(f"input {name!r} cannot be read on the GPU: {str(error).splitlines()[0]}") from error
    if told.get("mask") is not None:
        raise InputError(f"input {name!r} on the GPU has a mask, which models do not take.\nFill it first.")
    made = DeviceArray(
        value, int(told["data"][0]), tuple(int(size) for size in told["shape"]), told["typestr"]
    )
    strides = told.get("strides")
    if strides is not None and made.bytes and not _is_dense(made, strides):
        raise InputError(
            f"input {name!r} on the GPU, of shape {list(made.shape)}, has strides {list(strides)} in bytes: its "
            f"elements must lie side by side.\n{_MEND}"
        )
    queue = told.get("stream", _UNKNOWN)
    if queue is _UNKNOWN:  # version 2 and earlier say nothing
        api.wait_for_all()
    elif queue is not None:  # None: whoever passed it has waited
        stream.follow(int(queue))
    return made


def _is_dense(array: DeviceArray, strides: Sequence[int]) -> bool:
    step = array.dtype.itemsize
    for size, stride in zip(reversed(array.shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True

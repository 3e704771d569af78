"""Compiled functions: loading them, binding their weights, calling them from any thread.

A virtual machine of TVM keeps the state of a call, so a call needs one for itself. A function here owns
as many as there were calls at the same time, and takes a free one for each call.
"""

from __future__ import annotations

import math
import struct
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.config import ArtifactConfig, MemoryPlan, TensorSpec
from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.library import Handle, code_in_memory, ffi, global_function
from edgec.runtime.weights import ALIGNMENT, Weight

if TYPE_CHECKING:
    from edgec.runtime.foreign import Foreign

Array = npt.NDArray[Any]

_CPU, _POOLED = 1, 2
_from_dlpack = np.from_dlpack
# Up to this size (bytes) an input is copied into the call's own buffer: cheaper than wrapping the
# caller's array.
_SMALL = 16384
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64"}


def empty_aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """A new array whose first element lies at a 64-byte boundary, as compiled kernels want it (numpy gives
    16).
    """
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(kind).reshape(shape)


def check_code(code: bytes, config: ArtifactConfig) -> None:
    """Refuse code that is no shared library of the architecture that the config names.

    Raises:
        ArtifactError: the config and the code do not belong together.
    """
    if code[:4] != b"\x7fELF" or len(code) < 20:
        raise ArtifactError("the artifact's code is no shared library")
    (machine,) = struct.unpack_from("<H", code, 18)
    found = _ELF_MACHINES.get(machine, f"ELF machine {machine}")
    if found != config.arch:
        raise ArtifactError(f"the artifact says it is for {config.arch}, but its code is for {found}")


def load_code(code: bytes) -> Handle:
    """Load a compiled library. From here on its code can run.

    Raises:
        IncompatibleDevice: the dynamic linker or the TVM runtime refuses it.
    """
    with code_in_memory(code, "model.so") as path:
        try:
            return ffi().load_module(str(path))
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
            raise IncompatibleDevice(
                f"the compiled code cannot be loaded on this machine: {reason}"
            ) from error


def tensor_of(weight: Weight) -> Handle:
    """The weight as TVM sees it: the same memory, not a copy."""
    tensor = ffi().from_dlpack(weight.array)
    if weight.dtype == "bfloat16":
        shape = ffi().Shape(weight.array.shape)
        return global_function("runtime.TVMTensorCreateView")(tensor, shape, ffi().dtype("bfloat16"), 0)
    return tensor


class _Slot:
    """One virtual machine with the function bound to its weights, and buffers for its small inputs."""

    __slots__ = ("buffers", "call", "copies", "small", "tensors", "vm")

    def __init__(
        self,
        vm: Handle,
        call: Callable[..., Any],
        specs: Sequence[TensorSpec],
    ) -> None:
        self.vm = vm
        self.call = call
        self.buffers: list[Any] = []
        self.tensors: list[Any] = []
        for spec in specs:
            size = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            buffer = empty_aligned(spec.shape, spec.dtype) if 0 < size <= _SMALL else None
            self.buffers.append(buffer)
            self.tensors.append(None if buffer is None else ffi().from_dlpack(buffer))
        # large inputs that came where kernels cannot read them, by position
        self.copies: dict[int, tuple[Array, Any]] = {}
        self.small = all(buffer is not None for buffer in self.buffers)


class NativeFunction:
    """A function of the compiled library with its weights bound; calls may come from several threads at a
    time.
    """

    def __init__(
        self,
        module: Handle,
        name: str,
        weights: Sequence[Weight],
        inputs: Sequence[TensorSpec],
        foreign: Foreign | None = None,
        plan: MemoryPlan | None = None,
    ) -> None:
        self.name = plan.entry if plan else name
        self._plan = plan
        if foreign is not None:
            weakref.finalize(self, foreign.close)
        self._module = module
        self._weights = [tensor_of(weight) for weight in weights]
        self._specs = tuple(inputs)
        self._from_dlpack = ffi().from_dlpack
        self._tensor_type = ffi().Tensor
        self._aliases: bool | None = None
        self._free: list[_Slot] = [self._new_slot()]

    def _new_slot(self) -> _Slot:
        vm = self.new_vm()
        # Binding the weights once means that a call passes its inputs only.
        vm["save_function"](self.name, "edgec.bound", True, *self._weights, *self.arena())
        return _Slot(vm, vm["edgec.bound"], self._specs)

    def arena(self) -> list[Any]:
        """The activations of the memory plan as tensors of an arena of their own; none without a plan."""
        if self._plan is None:
            return []
        memory = empty_aligned((self._plan.bytes,), np.uint8)
        made = []
        for place in self._plan.tensors:
            dtype = "uint16" if place.dtype == "bfloat16" else place.dtype
            end = place.offset + math.prod(place.shape) * np.dtype(dtype).itemsize
            if end > self._plan.bytes:
                raise ArtifactError("the artifact's memory plan reaches beyond its arena")
            array = memory[place.offset : end].view(dtype).reshape(place.shape)
            made.append(tensor_of(Weight(array, place.dtype)))
        return made

    def new_vm(self) -> Handle:
        """A virtual machine of its own over the same code."""
        vm = self._module["vm_load_executable"]()
        vm["vm_initialization"](_CPU, 0, _POOLED)
        return vm

    @property
    def weights(self) -> list[Any]:
        """The weights as tensors, in call order."""
        return self._weights

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes; the results are new arrays of the
        caller's.
        """
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._new_slot()
        arguments = slot.tensors
        if slot.small:  # the common case of tiny models, where every microsecond shows
            for buffer, array in zip(slot.buffers, arrays, strict=True):
                buffer[...] = array
        else:
            arguments = arguments.copy()
            for position, place in enumerate(slot.buffers):
                if place is None:
                    arguments[position] = self._given(slot, position, arrays[position])
                else:
                    place[...] = arrays[position]
        result = slot.call(*arguments)
        if isinstance(result, self._tensor_type):
            outputs = [_from_dlpack(result)]
        else:
            outputs = [_from_dlpack(item) for item in result]
        if self._aliases is not False:
            outputs = self._unshared(outputs, arguments)
        self._free.append(slot)
        return outputs

    def _given(self, slot: _Slot, position: int, array: Array) -> Handle:
        """A large input as TVM sees it: as it is if it lies right, else copied to where the slot keeps it."""
        if _lies_right(array):
            return self._from_dlpack(array)
        if position not in slot.copies:
            buffer = empty_aligned(array.shape, array.dtype)
            slot.copies[position] = buffer, self._from_dlpack(buffer)
        buffer, tensor = slot.copies[position]
        buffer[...] = array
        return tensor

    def _wrap(self, array: Array) -> Handle:
        """The array as TVM sees it: as it is if it lies right, else a copy that does."""
        if array.size and not _lies_right(array):
            copy = empty_aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        return self._from_dlpack(array)

    def wrap_all(self, arrays: Sequence[Array]) -> list[Any]:
        """The arrays as TVM sees them."""
        return [self._wrap(array) for array in arrays]

    def _unshared(self, outputs: list[Array], arguments: list[Any]) -> list[Array]:
        """Copy the outputs that lie in an input, in a weight or in each other (a graph that hands one
        through).

        Whether a function does so does not change from call to call, so the first call finds out.
        """
        ranges = [_range(np.from_dlpack(tensor)) for tensor in arguments if tensor is not None]
        for tensor in self._weights:
            if str(tensor.dtype) != "bfloat16":
                ranges.append(_range(np.from_dlpack(tensor)))
        found, unshared = False, []
        for output in outputs:
            begin, end = _range(output)
            shared = any(begin < last and first < end for first, last in ranges)
            found = found or shared
            unshared.append(output.copy() if shared else output)
            ranges.append((begin, end))
        self._aliases = found
        return unshared

    def close(self) -> None:
        """Let the virtual machines go that no call is using.

        Code and weights go with the function itself: calls under way in other threads still need them.
        """
        self._free.clear()


def _lies_right(array: Array) -> bool:
    """Whether compiled code can read the array where it is.

    Asked for beforehand: a refusal by the runtime walks the whole stack, which takes a third of a
    second the first time.
    """
    flags = array.flags
    return bool(flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0)


def _range(array: Array) -> tuple[int, int]:
    start = array.ctypes.data
    return start, start + array.nbytes


def little_endian() -> bool:
    """Whether this machine has the byte order of the artifact's weights."""
    return sys.byteorder == "little"

"""Compiled functions: loading them, binding their weights, calling them from any thread.

A virtual machine of TVM keeps the state of a call, so a call needs one for itself. A function here owns
as many as there were calls at the same time, and takes a free one for each call.
"""

from __future__ import annotations

import math
import struct
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.artifact.config import ArtifactConfig, MemoryPlan, TensorSpec
from edgec.runtime.artifact.weights import ALIGNMENT, Weight
from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.execution.ffi_abi import Call, Function, Module, Tensor
from edgec.runtime.execution.ffi_layout import (
    ARRAY,
    DATA,
    DESCRIBED,
    NONE,
    OBJECT,
    OFFSET,
    TENSOR,
    memory_of,
    words_at,
)
from edgec.runtime.execution.ffi_layout import Array as Array  # other modules take it from here
from edgec.runtime.execution.shared_libraries import code_in_memory, interface

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

_Known = list[tuple[tuple[int, ...], np.dtype[Any]]]

_CPU, _POOLED = 1, 2
_VIEWS = 32
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


def load_code(code: bytes) -> Module:
    """Load a compiled library. From here on its code can run.

    Raises:
        IncompatibleDevice: the dynamic linker or the TVM runtime refuses it.
    """
    with code_in_memory(code, "model.so") as path:
        try:
            return interface().load_module(path)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
            raise IncompatibleDevice(
                f"the compiled code cannot be loaded on this machine: {reason}"
            ) from error


def tensor_of(weight: Weight) -> Tensor:
    """The weight as TVM sees it: the same memory, not a copy."""
    return interface().tensor(weight.array, bfloat16=weight.dtype == "bfloat16")


class _Slot:
    """One virtual machine with the function bound to its weights, and buffers for its small inputs."""

    __slots__ = ("buffers", "call", "copies", "known", "small", "tensors", "views", "vm")

    def __init__(self, vm: Module, function: Function, specs: Sequence[TensorSpec]) -> None:
        self.vm = vm
        self.call = Call(function, len(specs))
        self.buffers: list[Any] = []
        self.tensors: list[Tensor | None] = []
        for number, spec in enumerate(specs):
            size = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            buffer = empty_aligned(spec.shape, spec.dtype) if 0 < size <= _SMALL else None
            self.buffers.append(buffer)
            self.tensors.append(None if buffer is None else self.call.put(number, buffer))
        # large inputs that came where kernels cannot read them, by position
        self.copies: dict[int, tuple[Array, Tensor]] = {}
        self.small = all(buffer is not None for buffer in self.buffers)
        # shapes and dtypes of the results, once they are known to be small and always the same
        self.known: _Known = []
        # memory that each of them has lain in, by its address: one call's serves the next one's results
        self.views: list[dict[int, Array]] = []

    def know(self, results: _Known) -> None:
        """Copy results from here on: they are always of these shapes and dtypes, and small."""
        self.known, self.views = results, [{} for _ in results]

    def copied(self, number: int, handle: int) -> Array:
        """A copy of a small result, which costs less than to hand over its memory."""
        views = self.views[number]
        words = words_at(handle + DESCRIBED)
        address = words[DATA] + words[OFFSET]
        view = views.get(address)
        if view is None:
            if len(views) >= _VIEWS:
                views.clear()
            shape, dtype = self.known[number]
            view = views[address] = memory_of(handle).view(dtype).reshape(shape)
        return view.copy()


class NativeFunction:
    """A function of the compiled library with its weights bound; calls may come from several threads at a
    time.
    """

    def __init__(
        self,
        module: Module,
        name: str,
        weights: Sequence[Weight],
        inputs: Sequence[TensorSpec],
        fallback: FallbackSegments | None = None,
        plan: MemoryPlan | None = None,
    ) -> None:
        self.name = plan.entry if plan else name
        self._plan = plan
        if fallback is not None:
            weakref.finalize(self, fallback.close)
        self._module = module
        self._weights = [tensor_of(weight) for weight in weights]
        self._arrays = [weight.array for weight in weights]
        self._specs = tuple(inputs)
        self._library = interface()
        self._aliases: bool | None = None
        # shapes and dtypes of the results, once they are known to be small and always the same
        self._small: _Known | None = None
        self._same = plan is not None and fallback is None
        self._free: list[_Slot] = [self._new_slot()]

    def _new_slot(self) -> _Slot:
        vm = self.new_vm()
        # Binding the weights once means that a call passes its inputs only.
        vm["save_function"](self.name, "edgec.bound", True, *self._weights, *self.arena())
        return _Slot(vm, vm["edgec.bound"], self._specs)

    def arena(self) -> list[Tensor]:
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

    def new_vm(self) -> Module:
        """A virtual machine of its own over the same code."""
        vm: Module = self._module["vm_load_executable"]()
        vm["vm_initialization"](_CPU, 0, _POOLED)
        return vm

    @property
    def weights(self) -> list[Tensor]:
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
        if not slot.known:
            outputs = self._run(slot, arrays)
            self._free.append(slot)
            return outputs
        # The common case of tiny models, where every microsecond shows: what goes in and out is copied.
        for buffer, array in zip(slot.buffers, arrays, strict=True):
            buffer[...] = array
        call = slot.call
        result = call.result
        result.kind = NONE
        if call.invoke(*call.passed):
            raise self._library.error()
        handle = result.value
        try:
            if result.kind == TENSOR:
                outputs = [slot.copied(0, handle)]
            else:
                items = self._library.items(handle)
                outputs = [slot.copied(number, item) for number, item in enumerate(items)]
        finally:
            self._library.release(handle)
        self._free.append(slot)
        return outputs

    def _run(self, slot: _Slot, arrays: Sequence[Array]) -> list[Array]:
        arguments = slot.tensors.copy()
        for position, place in enumerate(slot.buffers):
            if place is None:
                arguments[position] = slot.call.put(position, self._given(slot, position, arrays[position]))
            else:
                place[...] = arrays[position]
        slot.call()
        result = slot.call.result
        if result.kind not in (TENSOR, ARRAY):
            if result.kind >= OBJECT:
                self._library.release(result.value)
            raise ArtifactError(f"the compiled function {self.name} gives no tensors")
        try:
            handles = [result.value] if result.kind == TENSOR else self._library.items(result.value)
            outputs = [self._library.array(item) for item in handles]
            if self._aliases is not False:
                outputs = self._unshared(outputs, arguments)
        finally:
            self._library.release(result.value)
        if self._small is not None and slot.small:
            slot.know(self._small)
        return outputs

    def _given(self, slot: _Slot, position: int, array: Array) -> Tensor:
        """A large input as TVM sees it: as it is if it lies right, else copied to where the slot keeps it."""
        if _lies_right(array):
            return self._library.tensor(array)
        if position not in slot.copies:
            buffer = empty_aligned(array.shape, array.dtype)
            slot.copies[position] = buffer, self._library.tensor(buffer)
        buffer, tensor = slot.copies[position]
        buffer[...] = array
        return tensor

    def _wrap(self, array: Array) -> Tensor:
        """The array as TVM sees it: as it is if it lies right, else a copy that does."""
        if array.size and not _lies_right(array):
            copy = empty_aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        return self._library.tensor(array)

    def wrap_all(self, arrays: Sequence[Array]) -> list[Tensor]:
        """The arrays as TVM sees them."""
        return [self._wrap(array) for array in arrays]

    def _unshared(self, outputs: list[Array], arguments: list[Tensor | None]) -> list[Array]:
        """Copy the outputs that lie in an input, in a weight or in each other (a graph that hands one
        through).

        Whether a function does so does not change from call to call, so the first call finds out.
        """
        tensors = [tensor for tensor in arguments if tensor is not None]
        ranges = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
        ranges += map(_range, self._arrays)
        found, unshared = False, []
        for output in outputs:
            begin, end = _range(output)
            shared = any(begin < last and first < end for first, last in ranges)
            found = found or shared
            unshared.append(output.copy() if shared else output)
            ranges.append((begin, end))
        self._aliases = found
        if self._same and all(0 < output.nbytes <= _SMALL for output in unshared):
            self._small = [(output.shape, output.dtype) for output in unshared]
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
    start: int = array.__array_interface__["data"][0]
    return start, start + array.nbytes

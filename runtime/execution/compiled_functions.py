"""Compiled functions: load them, bind their weights, call them from any thread.

A function whose calls are a table and whose results are small runs from that (`straight.py`). Others run on TVM's
virtual machine, which holds the state of a call. Concurrent calls need a machine, or a `Run`, each: a function owns as
many as there were concurrent calls, and takes a free one for each call.
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
from edgec.runtime.execution import pool
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
from edgec.runtime.execution.ffi_layout import Array as Array  # re-exported for other modules
from edgec.runtime.execution.shared_libraries import code_in_memory, interface
from edgec.runtime.execution.straight import SMALL, Run, StraightProgram

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.execution.fallback import FallbackSegments

_Known = list[tuple[tuple[int, ...], np.dtype[Any]]]

_CPU, _POOLED = 1, 2
_VIEWS = 32
_ELF_MACHINES = {62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64", 22: "s390x", 21: "ppc64", 3: "i386"}
_ELF_64, _ELF_LITTLE = 2, 1


def empty_aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Allocate an array on a 64-byte boundary, as compiled kernels require (numpy guarantees 16)."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(kind).reshape(shape)


def check_code(code: bytes, config: ArtifactConfig) -> None:
    """Refuse code that is not a shared library for the config's architecture.

    Raises:
        ArtifactError: the config and the code do not belong together.
    """
    if code[:4] != b"\x7fELF" or len(code) < 20:
        raise ArtifactError("the artifact's code is not a shared library")
    bits, order = code[4], code[5]
    (machine,) = struct.unpack_from("<H" if order == _ELF_LITTLE else ">H", code, 18)
    found = _ELF_MACHINES.get(machine, f"ELF machine {machine}")
    if order != _ELF_LITTLE:
        found += ", big-endian"
    if bits != _ELF_64:
        found += ", 32-bit"
    if found != config.arch:
        raise ArtifactError(f"the artifact says it is for {config.arch}, but its code is for {found}")


def load_code(code: bytes, kernels: dict[str, int] | None = None) -> Module:
    """Load a compiled library. From here on its code can run.

    Args:
        code: the shared library.
        kernels: names of kernels in it, whose addresses are filled in.

    Raises:
        IncompatibleDevice: the dynamic linker or the TVM runtime refuses it.
    """
    with code_in_memory(code, "model.so") as path:
        try:
            module = interface().load_module(path)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
            raise IncompatibleDevice(
                f"the compiled code cannot be loaded on this machine: {reason}"
            ) from error
        pool.attach(path, {} if kernels is None else kernels)
    return module


def tensor_of(weight: Weight) -> Tensor:
    """Wrap a weight as a tensor over the same memory."""
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
            small = 0 < size <= SMALL and not spec.bounds
            buffer = empty_aligned(spec.shape, spec.dtype) if small else None
            self.buffers.append(buffer)
            self.tensors.append(None if buffer is None else self.call.put(number, buffer))
        # copies of large inputs that kernels could not read in place, by position
        self.copies: dict[int, tuple[Array, Tensor]] = {}
        self.small = all(buffer is not None for buffer in self.buffers)
        # shapes and dtypes of the results, once they are known to be small and always the same
        self.known: _Known = []
        # views of the memory of each result by address: the allocator reuses it from call to call
        self.views: list[dict[int, Array]] = []

    def fix_results(self, results: _Known) -> None:
        """Copy results from now on: they are small, and their shapes and dtypes never change."""
        self.known, self.views = results, [{} for _ in results]

    def copied(self, number: int, handle: int) -> Array:
        """Copy a small result, which is cheaper than handing over its memory."""
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


class CompiledFunction:
    """A function of the compiled library with its weights bound; safe to call from several threads at once."""

    def __init__(
        self,
        module: Module,
        name: str,
        weights: Sequence[Weight],
        inputs: Sequence[TensorSpec],
        fallback: FallbackSegments | None = None,
        plan: MemoryPlan | None = None,
        *,
        varies: bool = False,
        straight: StraightProgram | None = None,
    ) -> None:
        self.name = plan.entry if plan else name
        self._plan = plan
        if fallback is not None:
            weakref.finalize(self, fallback.close)
        self._module = module
        self._weights = [tensor_of(weight) for weight in weights]
        self._arrays = [weight.array for weight in weights]  # kept, for their memory is read
        self._ranges = [_range(array) for array in self._arrays]
        self._specs = tuple(inputs)
        self.library = self._library = interface()
        self._aliases: bool | None = None
        # shapes and dtypes of the results, once they are known to be small and always the same
        self._small: _Known | None = None
        self.varies = self._varies = varies
        self._fixed_shapes = plan is not None and fallback is None and not varies
        self.straight = straight
        self._anywhere = straight is not None and straight.table.unaligned  # where kernels read inputs
        self._direct = straight if straight is not None and straight.returns_little() else None
        self._runs: list[Run] = [] if self._direct is None else [Run(self._direct)]
        self._free: list[_Slot] = [] if self._runs else [self._new_slot()]

    def _new_slot(self) -> _Slot:
        vm, function = self.bound()
        return _Slot(vm, function, self._specs)

    def bound(self) -> tuple[Module, Function]:
        """Another virtual machine, and its function with the weights bound: a call passes only the inputs."""
        vm = self.new_vm()
        vm["save_function"](self.name, "edgec.bound", True, *self._weights, *self.arena())
        return vm, vm["edgec.bound"]

    def arena(self) -> list[Tensor]:
        """Allocate an arena and return the memory plan's activations as tensors in it; empty without a plan."""
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
        """Create another virtual machine over the same code."""
        vm: Module = self._module["vm_load_executable"]()
        vm["vm_initialization"](_CPU, 0, _POOLED)
        return vm

    @property
    def weights(self) -> list[Tensor]:
        """The weights as tensors, in call order."""
        return self._weights

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run on contiguous arrays of the right shapes and dtypes; the results are new arrays, owned by the caller."""
        if self._direct is not None:
            try:
                run = self._runs.pop()
            except IndexError:
                run = Run(self._direct)
            made = run.call(arrays)
            if made is None:
                raise self._library.error()
            self._runs.append(run)
            return made
        try:
            slot = self._free.pop()
        except IndexError:
            slot = self._new_slot()
        if not slot.known:
            outputs = self._run(slot, arrays)
            self._free.append(slot)
            return outputs
        # The common case of tiny models, where every microsecond counts: inputs and results are copied.
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
                arguments[position] = slot.call.put(
                    position, self._input_tensor(slot, position, arrays[position])
                )
            else:
                place[...] = arrays[position]
        slot.call()
        result = slot.call.result
        if result.kind not in (TENSOR, ARRAY):
            if result.kind >= OBJECT:
                self._library.release(result.value)
            raise ArtifactError(f"the compiled function {self.name} does not return tensors")
        try:
            handles = [result.value] if result.kind == TENSOR else self._library.items(result.value)
            outputs = [self._library.array(item) for item in handles]
            if self._aliases is not False:
                outputs = self._unshared(outputs, arguments)
        finally:
            self._library.release(result.value)
        if self._small is not None and slot.small:
            slot.fix_results(self._small)
        return outputs

    def _input_tensor(self, slot: _Slot, position: int, array: Array) -> Tensor:
        """Wrap a large input: in place if compiled code can read it there, else copied to the slot's buffer."""
        if is_readable(array, array.itemsize if self._anywhere else ALIGNMENT):
            return self._library.tensor(array)
        if position not in slot.copies or slot.copies[position][0].shape != array.shape:
            buffer = empty_aligned(array.shape, array.dtype)
            slot.copies[position] = buffer, self._library.tensor(buffer)
        buffer, tensor = slot.copies[position]
        buffer[...] = array
        return tensor

    def _wrap(self, array: Array) -> Tensor:
        """Wrap an array: in place if compiled code can read it there, else a copy."""
        if array.size and not is_readable(array):
            copy = empty_aligned(array.shape, array.dtype)
            copy[...] = array
            array = copy
        return self._library.tensor(array)

    def wrap_all(self, arrays: Sequence[Array]) -> list[Tensor]:
        """Wrap arrays as tensors."""
        return [self._wrap(array) for array in arrays]

    def _unshared(self, outputs: list[Array], arguments: list[Tensor | None]) -> list[Array]:
        """Copy outputs that overlap an input, a weight or each other (where a graph passes one through).

        Whether a function without branches has such outputs does not change from call to call, so only its first call
        checks.
        """
        tensors = [tensor for tensor in arguments if tensor is not None]
        ranges = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
        ranges += self._ranges
        found, unshared = False, []
        for output in outputs:
            begin, end = _range(output)
            shared = any(begin < last and first < end for first, last in ranges)
            found = found or shared
            unshared.append(output.copy() if shared else output)
            ranges.append((begin, end))
        self._aliases = None if self._varies else found
        if self._fixed_shapes and all(0 < output.nbytes <= SMALL for output in unshared):
            self._small = [(output.shape, output.dtype) for output in unshared]
        return unshared

    def close(self) -> None:
        """Release virtual machines that no call is using.

        Code and weights are released with the function itself: calls in progress in other threads still need them.
        """
        self._free.clear()
        self._runs.clear()


def is_readable(array: Array, boundary: int = ALIGNMENT) -> bool:
    """Whether compiled code can read the array in place: contiguous, writable and on a `boundary` of so many bytes.

    Checked beforehand because a refusal by the runtime walks the whole stack, which takes a third of a second the first
    time.
    """
    flags = array.flags
    return bool(flags.c_contiguous and flags.writeable and array.ctypes.data % boundary == 0)


def _range(array: Array) -> tuple[int, int]:
    start: int = array.__array_interface__["data"][0]
    return start, start + array.nbytes

"""Calls of a compiled function that leave its state where the function wrote it.

A state is a tensor of the runtime's pool. A call takes the present one as an argument and returns the next one; the
session keeps a reference to that and drops the other, whose memory the next call's result takes. So two buffers
alternate and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.errors import ArtifactError
from edgec.runtime.execution.compiled_functions import CompiledFunction, empty_aligned, is_readable
from edgec.runtime.execution.ffi_abi import Call, Tensor
from edgec.runtime.execution.ffi_layout import (
    ARRAY,
    DATA,
    DESCRIBED,
    OBJECT,
    OFFSET,
    TENSOR,
    Array,
    memory_of,
    words_at,
)
from edgec.runtime.execution.straight import SMALL

if TYPE_CHECKING:
    from edgec.runtime.artifact.config import TensorSpec

_VIEWS = 64
Places = Sequence[tuple[int, int]]
"""Positions of a state among a function's inputs and outputs."""


class _Slot:
    """One virtual machine, and buffers for inputs that are small or cannot be read in place."""

    __slots__ = ("buffers", "call", "tensors", "views", "vm")

    def __init__(
        self, function: CompiledFunction, specs: Sequence[TensorSpec], states: frozenset[int]
    ) -> None:
        self.vm, bound = function.bound()
        self.call = Call(bound, len(specs))
        self.buffers: list[Array | None] = [None] * len(specs)
        self.tensors: list[Tensor | None] = [None] * len(specs)
        # views of the memory of small results by output and address: the allocator reuses it from call to call
        self.views: dict[tuple[int, int], Array] = {}
        for number, spec in enumerate(specs):
            size = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            if number not in states and 0 < size <= SMALL and not spec.bounds:
                self.buffer(number, empty_aligned(spec.shape, spec.dtype))

    def buffer(self, number: int, array: Array) -> None:
        """Make an array the place of an input that is copied."""
        self.buffers[number] = array
        self.tensors[number] = self.call.put(number, array)


class StateCalls:
    """A compiled function whose states stay with the caller as tensors; safe to call from several threads.

    Args:
        function: the function, whose virtual machines are its own.
        specs: all inputs, in call order.
        states: where each state goes in and comes out.
    """

    def __init__(self, function: CompiledFunction, specs: Sequence[TensorSpec], states: Places) -> None:
        self._function, self._specs = function, tuple(specs)
        self._library = function.library
        self._into = [given for given, _ in states]
        self._out = [made for _, made in states]
        self._others = [number for number in range(len(specs)) if number not in set(self._into)]
        self._free: list[_Slot] = []
        # Outputs that overlap what a later call or the caller changes, and so are copied. Unless the function has
        # branches, they are the same in each call.
        self._copied: frozenset[int] | None = None
        # shapes and dtypes of small results, once they are known
        self._small: dict[int, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def put(self, array: Array) -> Tensor:
        """A tensor with the content of an array."""
        own = empty_aligned(array.shape, array.dtype)
        own[...] = array
        return self._library.tensor(own)

    def get(self, state: Tensor) -> Array:
        """A copy of a tensor's content."""
        return self._library.array(state.handle).copy()

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[list[Array], list[Tensor]]:
        """Run once.

        Args:
            arrays: the inputs that are no states, in order, contiguous and of the right shapes and dtypes.
            states: the present states, which stay valid: tensors, or arrays.

        Returns:
            the outputs that are no states, owned by the caller, and the next states.
        """
        try:
            slot = self._free.pop()
        except IndexError:
            slot = _Slot(self._function, self._specs, frozenset(self._into))
        if states and not isinstance(
            states[0], Tensor
        ):  # of a set of input shapes that runs without the machine
            states = [self.put(state) for state in states]
        passed = self._pass(slot, arrays, states)
        slot.call()
        result = slot.call.result
        if result.kind not in (TENSOR, ARRAY):
            if result.kind >= OBJECT:
                self._library.release(result.value)
            raise ArtifactError(f"the compiled function {self._function.name} does not return tensors")
        try:
            handles = [result.value] if result.kind == TENSOR else self._library.items(result.value)
            copied = self._copied
            if copied is None:
                copied = self._overlapping(handles, passed, states)
                self._copied = None if self._function.varies else copied
            following = [self._kept(handles[n], copied=n in copied) for n in self._out]
            outputs = [
                self._taken(slot, n, handle, copied=n in copied)
                for n, handle in enumerate(handles)
                if n not in self._out
            ]
        finally:
            self._library.release(result.value)
        self._free.append(slot)
        return outputs, following

    def _pass(self, slot: _Slot, arrays: Sequence[Array], states: Sequence[Tensor]) -> list[Tensor]:
        """Set the call's arguments; returns the tensors of those that are no states."""
        passed = []
        for number, state in zip(self._into, states, strict=True):
            slot.call.pass_tensor(number, state)
        for number, array in zip(self._others, arrays, strict=True):
            place = slot.buffers[number]
            if (place is None or self._specs[number].bounds) and is_readable(array):
                passed.append(slot.call.put(number, array))
                continue
            if place is None or place.shape != array.shape:
                slot.buffer(number, place := empty_aligned(array.shape, array.dtype))
            place[...] = array
            tensor = slot.tensors[number]
            assert tensor is not None
            slot.call.pass_tensor(number, tensor)
            passed.append(tensor)
        return passed

    def _kept(self, handle: int, *, copied: bool) -> Tensor:
        return self.put(self._library.array(handle)) if copied else self._library.shared(handle)

    def _taken(self, slot: _Slot, number: int, handle: int, *, copied: bool) -> Array:
        """A result as the caller's own. Small ones are copied, which is cheaper than handing over their memory."""
        kind = self._small.get(number)
        if kind is not None:
            words = words_at(handle + DESCRIBED)
            key = number, words[DATA] + words[OFFSET]
            view = slot.views.get(key)
            if view is None:
                if len(slot.views) >= _VIEWS:
                    slot.views.clear()
                view = slot.views[key] = memory_of(handle).view(kind[1]).reshape(kind[0])
            return view.copy()
        array = self._library.array(handle)
        if 0 < array.nbytes <= SMALL and not self._function.varies:
            self._small[number] = array.shape, array.dtype
        return array.copy() if copied else array

    def _overlapping(
        self, handles: Sequence[int], passed: Sequence[Tensor], states: Sequence[Tensor]
    ) -> frozenset[int]:
        """The outputs to copy: states in memory of the caller's, and results in memory that others read.

        A graph may pass an input, a weight or a state through.
        """
        made = [_range(self._library.shared(handle)) for handle in handles]
        callers = [_range(tensor) for tensor in passed]
        read = [*callers, *map(_range, states), *map(_range, self._function.weights)]
        found = set[int]()
        for number, (begin, end) in enumerate(made):
            others = made[:number] + made[number + 1 :]
            near = callers if number in self._out else [*read, *others]
            if any(begin < last and first < end for first, last in near):
                found.add(number)
        return frozenset(found)

    def close(self) -> None:
        """Release virtual machines that no call is using."""
        self._free.clear()


def _range(tensor: Tensor) -> tuple[int, int]:
    start = tensor.data_ptr()
    return start, start + tensor.nbytes

"""Sessions of models that are sequences of kernels: all states of one moment are one block of memory.

A run reads one block and writes another; only two addresses change. A block that nobody refers to any more serves a
later run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.runtime.execution.ffi_abi import Interface, Object
from edgec.runtime.execution.ffi_layout import Array
from edgec.runtime.execution.straight import Block, Run, States, StraightProgram, block_of


class StraightStateCalls:
    """A program whose states stay with the caller; safe to call from several threads.

    Args:
        program: with its states.
        library: takes the error of a kernel that failed.
    """

    def __init__(self, program: StraightProgram, library: Interface) -> None:
        self._program, self._library = program, library
        self._runs: list[Run] = []
        self._blocks: list[Block] = []

    def put(self, array: Array) -> Array:
        """A state with the content of an array."""
        return np.array(array)

    def get(self, state: Any) -> Array:  # noqa: ANN401 - a state of this or of another set of input shapes
        """A copy of a state's content."""
        return np.array(self._library.array(state.handle) if isinstance(state, Object) else state)

    def __call__(self, arrays: Sequence[Array], states: Sequence[Any]) -> tuple[list[Array], Sequence[Array]]:
        """Run once: as `edgec.runtime.execution.state_calls.StateCalls`."""
        try:
            run = self._runs.pop()
        except IndexError:
            run = Run(self._program)
        following: Sequence[Array] = ()
        if self._program.states:
            present = states if type(states) is States else self._gathered(states)
            following = made = self._block()
            run.use_states(present.block.address, made.block.address)
        outputs = run.call(arrays)
        if outputs is None:
            raise self._library.error()
        self._runs.append(run)
        return outputs, following

    def _block(self) -> States:
        try:
            block = self._blocks.pop()
        except IndexError:
            memory, address = block_of(self._program.state_bytes)
            block = Block(self._program.states_in(memory), address, memory)
        return States(block, self._blocks)

    def _gathered(self, states: Sequence[Any]) -> States:
        """States that are not in a block yet: those that a session begins with or was restored to."""
        made = self._block()
        for place, state in zip(made.block.arrays, states, strict=True):
            place[...] = self.get(state)
        return made

    def close(self) -> None:
        """Release memory that no call and no session is using."""
        self._runs.clear()
        self._blocks.clear()

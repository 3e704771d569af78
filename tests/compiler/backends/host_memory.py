"""What GPUs of the tests share: memory that is numpy's, and recorded work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.runtime.gpu.generations import Generations
from edgec.runtime.gpu.limits import Limits

POISON = 0x7F  # what new memory is full of


class Recorded:
    """Work that is done anew at each start."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work

    def start(self, stream: object) -> None:
        self.work()

    def close(self) -> None: ...


class HostMemory:
    """The part of a `GpuApi` that is about memory."""

    ordinal = 0
    limits = Limits("a GPU of the tests", 30000.0, 120000.0, 300.0)

    def __init__(self) -> None:
        self.blocks: dict[int, np.ndarray] = {}
        self.generations = Generations(self.blocks.clear)

    def check_memory(self, size: int) -> None: ...

    def ordinal_of(self, address: int) -> int | None:
        return 0 if any(begin <= address < begin + len(one) for begin, one in self.blocks.items()) else None

    def allocate(self, size: int) -> int:
        room = np.full(size + 4096, POISON, np.uint8)
        begin = -room.ctypes.data % 4096
        block = room[begin : begin + size]
        self.blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def free(self, address: int) -> None:
        del self.blocks[address]

    def view(self, address: int, size: int | None = None) -> np.ndarray:
        for begin, block in self.blocks.items():
            if begin <= address < begin + len(block):
                at = address - begin
                assert size is None or at + size <= len(block), "a copy reaches beyond its block"
                return block[at : None if size is None else at + size]
        raise AssertionError("an address outside the device's memory")

    def host_array(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def wait_for_all(self) -> None: ...

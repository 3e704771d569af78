"""The process that runs candidates on the device: `python -m edgec.runtime.tuning.worker FD`.

One for each workload: a candidate that crashes or hangs takes this process with it and nothing else. Requests and
answers are lines of JSON on the socket, each followed by as many bytes as it says.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from io import BufferedIOBase
from typing import Any

import numpy as np

from edgec.runtime.errors import EdgecError
from edgec.runtime.execution.compiled_functions import empty_aligned, load_code
from edgec.runtime.execution.ffi_abi import Call
from edgec.runtime.execution.shared_libraries import ensure_runtime

FAR_BYTES = 8 << 20  # copies of weights amount to this: more than the caches of a small device keep
FEW_BYTES = 1 << 15


class Worker:
    """The candidates of one workload and their arguments: numbers that do not depend on the machine."""

    def __init__(self, arguments: list[tuple[list[int], str]]) -> None:
        rng = np.random.default_rng(0)
        arrays = []
        for shape, dtype in arguments:
            array = empty_aligned(tuple(shape), dtype)
            if "float" in dtype:
                array[...] = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
            else:
                array[...] = rng.integers(0, 2, shape).astype(dtype)
            arrays.append(array)
        self.sets = [arrays]
        size = sum(array.nbytes for array in arrays[1:-1])
        if size >= FEW_BYTES:
            copies = max(2, -(-FAR_BYTES // size))
            for _ in range(copies - 1):
                middle = []
                for array in arrays[1:-1]:
                    middle.append(empty_aligned(array.shape, array.dtype))
                    middle[-1][...] = array
                self.sets.append([arrays[0], *middle, arrays[-1]])
        self.calls: list[list[Call]] = []
        self._held: list[Any] = []

    def add(self, code: bytes) -> bytes:
        """Load a candidate, run it once and return what it computed."""
        function = load_code(code)["kernel"]
        calls = []
        for arrays in self.sets:
            call = Call(function, len(arrays))
            self._held += [call.put(number, array) for number, array in enumerate(arrays)]
            calls.append(call)
        output = self.sets[0][-1]
        output[...] = 0
        calls[0]()
        self.calls.append(calls)
        return output.tobytes()

    def time(self, number: int, budget_s: float) -> list[float]:
        """Seconds a call, as the mean of each of three passes; with many weights, of a copy of them in turn."""
        calls = self.calls[number]
        calls[0]()
        begin = time.perf_counter()
        calls[-1]()
        rounds = max(1, min(1000, round(budget_s / 3 / max(time.perf_counter() - begin, 1e-6))))
        found = []
        for _ in range(3):
            begin = time.perf_counter()
            for turn in range(rounds):
                calls[turn % len(calls)]()
            found.append((time.perf_counter() - begin) / rounds)
        return found


def main(descriptor: int) -> None:
    """Serve requests until the other side closes."""
    with socket.socket(fileno=descriptor) as link, link.makefile("rwb") as stream:
        worker: Worker | None = None
        while line := stream.readline():
            request = json.loads(line)
            blob = stream.read(request.get("bytes", 0))
            try:
                if request["op"] == "workload":
                    ensure_runtime(lambda name: None)
                    worker = Worker(request["arguments"])
                    _answer(stream, {})
                elif worker is None:
                    _answer(stream, {"error": "no workload was begun"})
                elif request["op"] == "add":
                    output = worker.add(blob)
                    _answer(stream, {"candidate": len(worker.calls) - 1}, output)
                else:
                    _answer(stream, {"seconds": worker.time(request["candidate"], request["budget_s"])})
            except (EdgecError, RuntimeError, AttributeError, ValueError, IndexError) as error:
                _answer(stream, {"error": (str(error).strip().splitlines() or [type(error).__name__])[-1]})


def _answer(stream: BufferedIOBase, message: dict[str, Any], blob: bytes = b"") -> None:
    stream.write(json.dumps(message | {"bytes": len(blob)}).encode() + b"\n" + blob)
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))

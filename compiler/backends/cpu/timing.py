"""Build candidates and time them in this process.

Between two uses of a layer's weights all other layers of a network run, so weights come from the last-level cache or
from memory: a layer of many weights is timed on several copies of them, one after the other. With one copy, tiles that
read their weights often would look better than they are (strided layers of ResNet-50 by up to a half).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE

FAR_BYTES = 48 << 20  # copies of weights amount to this: more than a last-level cache keeps for one user
FEW_BYTES = 1 << 17  # weights below this take no time to fetch beside the work on them
TOLERANCE = 1e-3  # between candidates, relative to the largest value: orders of summation differ


@dataclass
class Trial:
    """A built candidate: how to run it, what it computed, its times so far in seconds a call."""

    run: tvm.runtime.Module
    output: np.ndarray
    seconds: list[float]

    @property
    def best(self) -> float:
        """The shortest time seen: noise only ever adds."""
        return min(self.seconds)


Arguments: TypeAlias = list[tvm.runtime.Tensor]


def far_arguments(first: Arguments) -> list[Arguments]:
    """Arguments for calls in turn: `first`, and more with copies of all but the first operand and the output."""
    contents = [argument.numpy() for argument in first[1:-1]]
    size = sum(content.nbytes for content in contents)
    if size < FEW_BYTES:
        return [first]
    copies = max(2, -(-FAR_BYTES // size))
    middles = ([tvm.runtime.tensor(content) for content in contents] for _ in range(copies - 1))
    return [first, *([first[0], *middle, first[-1]] for middle in middles)]


def random_arguments(func: PrimFunc) -> Arguments:
    """Tensors for a kernel's parameters: small normal numbers, the output zero."""
    rng = np.random.default_rng(0)
    made = []
    for param in func.params:
        shape = tuple(int(d) for d in param.ty.shape)
        dtype = str(param.ty.dtype.dtype)
        if "float" in dtype:
            array = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
        else:
            array = rng.integers(0, 2, shape).astype(dtype)
        made.append(tvm.runtime.tensor(array))
    return made


def build(func: PrimFunc, target: tvm.target.Target) -> tvm.runtime.Module:
    """Machine code of one kernel, in memory.

    Raises:
        whatever TVM raises for a kernel that cannot be built (its exceptions have no common base).
    """
    named = func.with_attr("global_symbol", "kernel")
    return tvm.tirx.build(tvm.IRModule({"kernel": named}), target=target, pipeline=PIPELINE)


def try_out(module: tvm.runtime.Module, arguments: Sequence[tvm.runtime.Tensor]) -> Trial:
    """Run a candidate once and keep what it computed."""
    output = arguments[-1]
    output.copyfrom(np.zeros(output.shape, str(output.dtype)))
    module["kernel"](*arguments)
    return Trial(module, output.numpy().copy(), [])


def time_once(trial: Trial, sets: Sequence[Arguments], budget_s: float) -> None:
    """Add measurements of about `budget_s` in all, and of three calls at least, to `trial`; `sets` serve in turn."""
    if len(sets) > 1:
        trial.seconds += _time_in_turn(trial.run["kernel"], sets, budget_s)
        return
    device, (arguments,) = tvm.cpu(), sets
    first = trial.run.time_evaluator("kernel", device, number=1, repeat=2)(*arguments)
    single = max(min(first.results), 1e-7)
    number = max(1, min(200, int(budget_s / 3 / single)))
    timed = trial.run.time_evaluator("kernel", device, number=number, repeat=3)(*arguments)
    trial.seconds += [float(t) for t in timed.results]


def _time_in_turn(kernel: tvm.runtime.Module, sets: Sequence[Arguments], budget_s: float) -> list[float]:
    """Seconds a call, the mean over each of three passes over some of `sets`."""
    kernel(*sets[0])
    begin = time.perf_counter()
    kernel(*sets[1])
    each = max(1, min(len(sets), round(budget_s / 3 / max(time.perf_counter() - begin, 1e-6))))
    results = []
    for turn in range(3):
        chosen = [sets[(turn * each + i) % len(sets)] for i in range(each)]
        begin = time.perf_counter()
        for arguments in chosen:
            kernel(*arguments)
        results.append((time.perf_counter() - begin) / each)
    return results


def agreeing(outputs: Sequence[np.ndarray]) -> list[bool]:
    """Which candidates computed what most of them computed."""
    if not outputs:
        return []
    first = [_close(outputs[0], b) for b in outputs]
    if all(first):
        return first
    close = [[_close(a, b) for b in outputs] for a in outputs]
    votes = [sum(row) for row in close]
    return close[int(np.argmax(votes))]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    # A result rounded to fewer bits may fall on either side.
    tolerance = 2.0**-7 if str(a.dtype) == "bfloat16" else TOLERANCE
    a, b = (x.astype(np.float32) if str(x.dtype) == "bfloat16" else x for x in (a, b))
    scale = float(np.max(np.abs(a), initial=1e-6))
    return bool(np.all(np.isfinite(b)) and np.max(np.abs(a - b), initial=0.0) <= tolerance * scale)

"""The static memory plan: values needed at once have bytes of their own, and a call allocates its results only."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import edgec.runtime as rt
from edgec.compiler.graph.memory import _Life, _pack
from edgec.runtime.execution.shared_libraries import ffi
from tests.compiler.onnx_models import build, model_of, save


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40)
)
def test_values_of_the_same_moment_have_bytes_of_their_own(drawn: list[tuple[int, int, int]]) -> None:
    lives = [_Life(size, min(a, b), max(a, b)) for size, a, b in drawn]
    offsets, total = _pack(lives)
    for k, (own, at) in enumerate(zip(lives, offsets, strict=True)):
        assert at % 64 == 0
        assert at + own.size <= total
        for other, there in zip(lives[k + 1 :], offsets[k + 1 :], strict=True):
            if own.first <= other.last and other.first <= own.last:
                assert at + own.size <= there or there + other.size <= at
    assert total <= sum(-(-life.size // 64) * 64 for life in lives)


def branching() -> Any:
    """Convolutions in a row with a shortcut around each, two results, and a reshape between."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"
    for k in range(6):
        constants[f"w{k}"] = (rng.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("MaxPool", [f"c{k}"], [f"p{k}"], kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Add", [f"p{k}", last], [f"a{k}"]))
        last = f"a{k}"
    constants["shape"] = np.array([1, -1], np.int64)
    constants["m"] = (rng.standard_normal((16 * 64, 10)) / 32).astype(np.float32)
    nodes.append(helper.make_node("Reshape", [last, "shape"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "m"], ["y"]))
    return model_of(nodes, {"x": [1, 16, 8, 8]}, ["y", "a2"], constants)


def _calls(model: rt.Model, x: np.ndarray) -> list[str]:
    """Names of everything that the virtual machine calls in one run."""
    engine = model._first.engine
    assert engine is not None
    names: list[str] = []

    def note(_function: Any, name: str, before: bool, _result: Any, *_args: Any) -> None:
        if before:
            names.append(name)

    vm = engine.new_vm()
    vm["set_instrument"](ffi().convert_func(note))
    vm[engine.name](*engine.wrap_all([x]), *engine.weights, *engine.arena())
    return names


def test_a_run_allocates_nothing_but_its_results(tmp_path: Path) -> None:
    _, artifact = build(save(branching(), tmp_path), tmp_path)
    x = np.random.default_rng(1).standard_normal((1, 16, 8, 8)).astype(np.float32)
    with rt.load(artifact, threads=1) as model:
        plan = model.config.plan
        assert plan is not None
        value = 16 * 8 * 8 * 4
        assert 2 * value <= plan.bytes <= 5 * value  # of more than 12 values in all
        names = _calls(model, x)
        assert sum("alloc_storage" in name for name in names) <= 2
        assert sum("alloc_tensor" in name for name in names) <= 2
        assert not [name for name in names if "reshape" in name]


class _Usage(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
            "keepcost",
        )
    ]  # fmt: skip


def test_memory_in_use_stays_the_same_over_thousands_of_runs(tmp_path: Path) -> None:
    _, artifact = build(save(branching(), tmp_path), tmp_path)
    usage = ctypes.CDLL(None).mallinfo2
    usage.restype = _Usage
    x = {"x": np.random.default_rng(1).standard_normal((1, 16, 8, 8)).astype(np.float32)}
    with rt.load(artifact, threads=1) as model:
        wanted = {name: array.copy() for name, array in model.run(x).items()}
        for _ in range(20):
            model.run(x)
        before = usage()
        for _ in range(3000):
            made = model.run(x)
        after = usage()
        assert abs(after.uordblks - before.uordblks) + abs(after.hblkhd - before.hblkhd) < 8192
        for name, array in wanted.items():
            np.testing.assert_array_equal(made[name], array)

"""Calls of compiled functions: inputs are read in place, results belong to the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution import shared_libraries
from edgec.runtime.execution.compiled_functions import empty_aligned
from edgec.runtime.execution.ffi_abi import Call
from tests.runtime.side_by_side import side_by_side


def test_results_that_are_copied_are_the_callers_own(small_pair: Any, tmp_path: Path) -> None:
    """From several threads: each call has its own memory, whoever had it before."""
    wrong: list[int] = []
    path = small_pair.write(tmp_path / "pair.edge")

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        kept = []
        for _ in range(100):
            x = random.standard_normal((1, 32)).astype("float32")
            kept.append((x, model.run({"x": x})))
        for x, found in kept:
            if not (found["more"] == x + 1).all() or not (found["positive"] == np.maximum(x, 0)).all():
                wrong.append(seed)
            found["more"][...] = 0

    with rt.load(path, threads=1) as model:
        side_by_side(work)
    assert wrong == []


@pytest.mark.parametrize("name", ["vm.builtin.shape_of", "vm.builtin.null_value", "runtime.NumThreads"])
def test_a_compiled_function_that_gives_no_tensors_is_refused(mlp: Any, tmp_path: Path, name: str) -> None:
    """A shape, nothing, a number: none is mistaken for the address of a tensor."""
    x = np.ones((1, 32), "float32")
    with rt.load(mlp.write(tmp_path / "a.edge"), threads=1) as model:
        assert model._first.engine is not None
        (slot,) = model._first.engine._free
        slot.call = Call(shared_libraries.global_function(name), 1 if name.endswith("shape_of") else 0)
        if name.endswith("shape_of"):
            slot.tensors = [slot.call.put(0, x)]
        with pytest.raises(
            rt.ArtifactError, match="the compiled function main_planned does not return tensors"
        ):
            model.run({"x": x})


def test_inputs_may_lie_anywhere_in_memory(two_outputs: Any, tmp_path: Path) -> None:
    shape, random = (1, 512, 1024), np.random.default_rng(0)
    plain = random.standard_normal(shape).astype("float32")
    odd = np.zeros(plain.nbytes + 4, np.uint8)[4:].view("float32").reshape(shape)
    aligned, read_only, wide = (
        empty_aligned(shape, "float32"),
        plain.copy(),
        np.zeros((1, 512, 2048), "float32"),
    )
    strided, turned = wide[:, :, ::2], np.empty((1024, 512, 1), "float32").transpose(2, 1, 0)
    for view in (odd, aligned, strided, turned):
        view[...] = plain
    read_only.flags.writeable = False
    b = np.array(0.5, "float32")
    with rt.load(two_outputs.write(tmp_path / "a.edge")) as model:
        for view in (plain, odd, aligned, read_only, strided, turned):
            np.testing.assert_array_equal(model.run({"a": view, "b": b})["sum"], plain + b)


def test_an_output_that_is_an_input_handed_through_is_a_copy(two_outputs: Any, tmp_path: Path) -> None:
    a, b = empty_aligned((1, 512, 1024), "float32"), np.array(1, "float32")
    with rt.load(two_outputs.write(tmp_path / "a.edge")) as model:
        for number in range(3):
            a[...] = number
            kept = model.run({"b": b, "a": a})
            a[...] = -1
            assert (kept["same"] == number).all()
            assert (kept["sum"] == number + 1).all()

"""Runs without the virtual machine: the same results, wherever outputs lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from tests.runtime.conftest import Built, compiled, spec
from tests.runtime.side_by_side import side_by_side


@pytest.fixture(scope="module")
def odd() -> Built:
    """Outputs that are an input, a weight, views of one result, and a result twice; one input is read in place."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    def emit(builder: Any, inputs: Any) -> Any:
        a, big = inputs
        doubled = builder.emit(relax.op.add(a, a))
        row = builder.emit(relax.op.max(big, axis=1))
        more = builder.emit(relax.op.add(row, relax.const(np.float32(1))))
        fixed = relax.const(np.arange(4, dtype=np.float32))
        flat = builder.emit(relax.op.reshape(doubled, [6]))
        return relax.Tuple([doubled, flat, a, fixed, more, more])

    outputs = [
        spec("doubled", (2, 3)), spec("flat", (6,)), spec("a_again", (2, 3)), spec("fixed", (4,)),
        spec("more", (4,)), spec("same", (4,)),
    ]  # fmt: skip
    return compiled(emit, [spec("a", (2, 3)), spec("big", (4, 8192))], outputs)


def _expected(a: np.ndarray, big: np.ndarray) -> dict[str, np.ndarray]:
    more = big.max(1) + 1
    return {
        "doubled": a + a, "flat": (a + a).ravel(), "a_again": a, "fixed": np.arange(4), "more": more,
        "same": more,
    }  # fmt: skip


def test_outputs_may_be_anything_and_belong_to_the_caller(odd: Built, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kept = []
    with rt.load(odd.write(tmp_path / "a.edge", straight=True), threads=1) as model:
        assert model._first.engine.straight is not None  # type: ignore[union-attr]
        for _ in range(4):
            a = random.standard_normal((2, 3)).astype(np.float32)
            big = random.standard_normal((4, 8193)).astype(np.float32)[:, 1:]
            for given in (big, big.copy(), np.asfortranarray(big)):
                kept.append((_expected(a.copy(), big), model.run({"a": a, "big": given})))
                a[...] += 1
    for wanted, found in kept:
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)
    for array in found.values():
        array[...] = 0  # each is the caller's own, though some were one tensor
    assert all(array.flags.writeable for array in found.values())


def test_threads_do_not_share_a_run(odd: Built, tmp_path: Path) -> None:
    wrong: list[int] = []
    path = odd.write(tmp_path / "a.edge", straight=True)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            a = random.standard_normal((2, 3)).astype(np.float32)
            big = random.standard_normal((4, 8192)).astype(np.float32)
            found = model.run({"a": a, "big": big})
            if any((found[name] != array).any() for name, array in _expected(a, big).items()):
                wrong.append(seed)

    with rt.load(path, threads=1) as model:
        side_by_side(work)
    assert wrong == []


def test_a_table_that_does_not_fit_is_not_run(odd: Built, tmp_path: Path) -> None:
    assert odd.calls is not None
    table = msgspec.json.decode(odd.calls)
    a, big = np.ones((2, 3), np.float32), np.ones((4, 8192), np.float32)
    for change in ({"outputs": [99]}, {"arena": -1}, {"operands": [["input", 7, 0, "int8", [1]]]}):
        wrong = Built(odd.config, odd.code, odd.weights, msgspec.json.encode(table | change))
        with rt.load(wrong.write(tmp_path / "b.edge", straight=True), threads=1) as model:
            if "arena" not in change or any(o[0] == "arena" for o in table["operands"]):
                assert model._first.engine.straight is None  # type: ignore[union-attr]
            np.testing.assert_array_equal(model.run({"a": a, "big": big})["doubled"], a + a)
    wrong = Built(odd.config, odd.code, odd.weights, b"{")
    with pytest.raises(rt.ArtifactError, match="table of calls is malformed"):
        rt.load(wrong.write(tmp_path / "c.edge", straight=True))
    renamed = [["no_such_kernel", *call[1:]] for call in table["calls"]]
    wrong = Built(odd.config, odd.code, odd.weights, msgspec.json.encode(table | {"calls": renamed}))
    with pytest.raises(rt.ArtifactError, match="lacks the kernel no_such_kernel"):
        rt.load(wrong.write(tmp_path / "d.edge", straight=True))

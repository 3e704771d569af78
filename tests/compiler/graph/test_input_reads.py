"""Inputs are read where the caller has them, on any boundary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from tests.runtime.conftest import Built, compiled, spec

SHAPES = {"picture": (1, 3, 40, 48), "rows": (4, 4099), "added": (4, 4099)}
"""Each larger than what a run copies anyway."""


@pytest.fixture(scope="module", params=["small results", "large results"])
def reader(request: pytest.FixtureRequest) -> Built:
    """A convolution, a view, sums along both axes, and an input that two kernels read."""
    from tvm import relax

    rng = np.random.default_rng(0)
    kernel = relax.const(rng.standard_normal((8, 3, 3, 3)).astype(np.float32))

    def emit(builder: Any, inputs: Any) -> Any:
        picture, rows, added = inputs
        made = builder.emit(relax.op.nn.conv2d(picture, kernel, padding=1))
        summed = builder.emit(relax.op.add(rows, added))
        viewed = builder.emit(relax.op.reshape(summed if request.param == "large results" else rows, [-1]))
        columns = builder.emit(relax.op.max(rows, axis=0))
        if request.param == "small results":
            made = builder.emit(relax.op.max(made, axis=[2, 3]))
            viewed = builder.emit(
                relax.op.max(builder.emit(relax.op.negative(viewed)), axis=0, keepdims=True)
            )
            columns = builder.emit(relax.op.max(columns, axis=0, keepdims=True))
            summed = builder.emit(relax.op.max(summed, axis=1))
        return relax.Tuple([made, viewed, columns, summed])

    large = request.param == "large results"
    shapes = [(1, 8, 40, 48), (4 * 4099,), (4099,), (4, 4099)] if large else [(1, 8), (1,), (1,), (4,)]
    outputs = [spec(f"o{n}", shape) for n, shape in enumerate(shapes)]
    return compiled(emit, [spec(name, shape) for name, shape in SHAPES.items()], outputs)


def _at(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy that begins `offset` bytes behind a boundary of 64."""
    block = np.zeros(array.nbytes + 128, np.uint8)
    start = -block.ctypes.data % 64 + offset
    placed = block[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    placed[...] = array
    return placed


def test_results_do_not_depend_on_where_inputs_lie(reader: Built, tmp_path: Path) -> None:
    assert reader.calls is not None
    assert msgspec.json.decode(reader.calls)["unaligned"]
    rng = np.random.default_rng(1)
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    with rt.load(reader.write(tmp_path / "a.edge", straight=True), threads=1) as model:
        wanted = model.run({name: _at(array, 0) for name, array in inputs.items()})
        for offset in (1, 2, 4, 12, 16, 36, 48, 60):
            found = model.run({name: _at(array, offset) for name, array in inputs.items()})
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)


def test_older_tables_get_copies(reader: Built, tmp_path: Path) -> None:
    assert reader.calls is not None
    table = msgspec.json.decode(reader.calls)
    del table["unaligned"]
    older = Built(reader.config, reader.code, reader.weights, msgspec.json.encode(table))
    with rt.load(older.write(tmp_path / "a.edge", straight=True), threads=1) as model:
        straight = model._first.engine.straight  # type: ignore[union-attr]
        assert straight is not None
        assert not straight.table.unaligned
        inputs = {name: _at(np.ones(shape, np.float32), 4) for name, shape in SHAPES.items()}
        found = model.run(inputs)
        np.testing.assert_array_equal(found["o1"].ravel()[0], 2 if found["o1"].size > 1 else -1)

"""Slices and reversals with every mask, constant and computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import to_onnx
from tests.compiler.frontends.tflite.models import Cases, assert_same

I32 = np.int32


def strides(rng: np.random.Generator, rank: int, entries: int) -> schema.StridedSliceOptionsT:
    """Random masks: an ellipsis at most, and no more picked or kept axes than there are."""
    options = schema.StridedSliceOptionsT()
    options.beginMask, options.endMask = (int(rng.integers(0, 1 << entries)) for _ in range(2))
    if entries > rank or rng.random() < 0.3:
        options.ellipsisMask = 1 << int(rng.integers(0, entries))
    kept = entries - bool(options.ellipsisMask)
    if kept > rank or rng.random() < 0.4:
        options.newAxisMask = int(rng.integers(0, 1 << entries))
    options.shrinkAxisMask = int(rng.integers(0, 1 << entries)) if rng.random() < 0.5 else 0
    return options


def random_slices(cases: Cases, seed: int, count: int) -> None:
    """Slices of shapes of 1 to 4 axes with random masks, begins and ends beyond the edges, and steps of both signs."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        rank = int(rng.integers(1, 5))
        shape = rng.integers(2, 6, rank)
        entries = int(rng.integers(1, rank + 1))
        options = strides(rng, rank, entries)
        marked = [k for k in range(entries) if options.ellipsisMask >> k & 1]
        new = [k for k in range(entries) if options.newAxisMask >> k & 1 and k not in marked]
        axes, axis = [], 0
        for k in range(entries):
            axes.append(axis)
            axis += rank - (entries - len(marked) - len(new)) if k in marked else k not in new
        step = rng.choice([1, 1, 2, -1, -2], entries)
        begin, end = (rng.integers(-6, 7, entries) for _ in range(2))
        for k in range(entries):
            size = int(shape[min(axes[k], rank - 1)])
            if options.shrinkAxisMask >> k & 1:
                begin[k], step[k] = rng.integers(-size, size), 1
                end[k] = begin[k] + 1
        x = rng.standard_normal(shape).astype("float32")
        if 0 in plain(x, begin, end, step, options).shape:
            continue  # LiteRT does not return empty tensors alike
        constants = [cases.constant(v.astype(I32)) for v in (begin, end, step)]
        cases.op("STRIDED_SLICE", [cases.input(x), *constants], options=options)
        made += 1


def plain(
    x: np.ndarray, begin: np.ndarray, end: np.ndarray, step: np.ndarray, options: schema.StridedSliceOptionsT
) -> np.ndarray:
    """The slice by numpy."""
    index: list[object] = []
    for k in range(len(begin)):
        if options.ellipsisMask >> k & 1:
            index.append(Ellipsis)
        elif options.newAxisMask >> k & 1:
            index.append(None)
        elif options.shrinkAxisMask >> k & 1:
            index.append(int(begin[k]))
        else:
            first = None if options.beginMask >> k & 1 else int(begin[k])
            index.append(slice(first, None if options.endMask >> k & 1 else int(end[k]), int(step[k])))
    return x[tuple(index)]


def test_strided_slices_with_every_mask(tmp_path: Path) -> None:
    cases = Cases()
    random_slices(cases, 0, 50)
    assert_same(cases, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_more_strided_slices(seed: int, tmp_path: Path) -> None:
    cases = Cases()
    random_slices(cases, seed, 60)
    assert_same(cases, tmp_path)


def test_ends_that_are_computed(tmp_path: Path) -> None:
    """A picked entry and a part of constant size at a place that is known at run time."""
    rng = np.random.default_rng(1)
    cases = Cases()
    x = cases.input(rng.standard_normal((4, 6, 3)).astype("float32"))
    place = cases.input(np.array([2, 1, 0], I32))
    after = cases.op(
        "ADD", [place, cases.constant(np.ones(3, I32))], "int32", schema.AddOptionsT(), returned=False
    )
    picked = schema.StridedSliceOptionsT()
    picked.shrinkAxisMask, picked.beginMask, picked.endMask = 1, 6, 6
    cases.op("STRIDED_SLICE", [x, place, after, cases.constant(np.ones(3, I32))], options=picked)
    cases.op("SLICE", [x, place, cases.constant(np.array([2, 4, -1], I32))], options=schema.SliceOptionsT())
    assert_same(cases, tmp_path, compiled=True)


def test_slices_and_reversals(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = Cases()
    for dtype in ("float32", "int32", "int64", "bool"):
        x = cases.input((rng.standard_normal((3, 5, 4)) * 9).astype(dtype))
        begin, size = cases.constant(np.array([1, 0, 2], I32)), cases.constant(np.array([2, 3, -1], I32))
        cases.op("SLICE", [x, begin, size], dtype, schema.SliceOptionsT())
        for axes in ([0], [-1], [1, 2]):
            if len(axes) == 1 or dtype == "float32":
                cases.op("REVERSE_V2", [x, cases.constant(np.array(axes, I32))], dtype)
    floats = cases.input(rng.standard_normal((4, 6, 3)).astype("float32"))
    for batch, along, lengths in ((0, 1, [6, 1, 3, 0]), (2, 0, [4, 2, 1]), (1, 0, [1, 2, 3, 4, 0, 2])):
        options = schema.ReverseSequenceOptionsT()
        options.batchDim, options.seqDim = batch, along
        cases.op("REVERSE_SEQUENCE", [floats, cases.input(np.array(lengths, I32))], options=options)
    quantised = cases.input(rng.integers(-128, 128, (3, 5)).astype("int8"), scale=0.1, zero=-3)
    cases.op("REVERSE_V2", [quantised, cases.constant(np.array([1], I32))], "int8", scale=0.1, zero=-3)
    assert_same(cases, tmp_path)


def test_parts_that_are_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cases = Cases()
    for place in ([1, 2], [-3, 9], [2, 0]):
        x = cases.input(rng.standard_normal((4, 7)).astype("float32"))
        part = cases.input(rng.standard_normal((2, 3)).astype("float32"))
        cases.op("DYNAMIC_UPDATE_SLICE", [x, part, cases.input(np.array(place, I32))])
    assert_same(cases, tmp_path)


def test_a_step_of_zero_is_refused(tmp_path: Path) -> None:
    cases = Cases()
    parts = [cases.constant(np.array([v], I32)) for v in (0, 2, 0)]
    cases.op(
        "STRIDED_SLICE", [cases.input(np.zeros(4, "float32")), *parts], options=schema.StridedSliceOptionsT()
    )
    path = cases.save(tmp_path, shaped=False)
    with pytest.raises(UnsupportedModel, match="a step is zero"):
        to_onnx(read(path.read_bytes(), path), path)

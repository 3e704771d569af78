"""Convolutions of free sizes: right for every size within the bounds, and made by the template."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import Bounds, CompileOptions
from edgec.compiler.progress import Silent
from edgec.targets import detect
from tests.compiler.onnx_models import build, model_of, save

RNG = np.random.default_rng(3)


class Case(NamedTuple):
    channels: int
    filters: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    group: int = 1
    dilations: tuple[int, ...] = (1, 1)
    threads: int = 1


CASES = {
    "pointwise": Case(19, 17, (1, 1), threads=2),
    "subsampled": Case(6, 10, (1, 1), strides=(2, 2)),
    "uneven pads": Case(3, 9, (3, 3), strides=(2, 2), pads=(0, 1, 1, 0)),
    "depthwise": Case(6, 6, (3, 3), pads=(1, 1, 1, 1), group=6, threads=2),
    "strided depthwise": Case(4, 8, (5, 3), strides=(2, 3), pads=(2, 1, 2, 1), group=4),
    "two groups": Case(6, 10, (3, 3), pads=(1, 1, 1, 1), group=2),
    "large kernel": Case(3, 5, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), threads=2),
    "dilated": Case(2, 3, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2)),
    "sparse": Case(2, 3, (2, 2), strides=(3, 3), pads=(0, 2, 0, 0)),
    "frames": Case(2, 12, (9,), strides=(4,), pads=(3, 2), dilations=(1,)),
}
SMALLEST, LARGEST = 5, 70


@pytest.mark.parametrize("name", CASES)
def test_every_size_is_right(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    rank = len(case.kernel)
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["a"],
            pads=case.pads, strides=case.strides, group=case.group, dilations=case.dilations,
        ),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
        helper.make_node("Relu", ["a"], ["z"]),
    ]  # fmt: skip
    weights = (case.filters, case.channels // case.group, *case.kernel)
    constants = {
        "w": RNG.standard_normal(weights).astype("float32"),
        "b": RNG.standard_normal(case.filters).astype("float32"),
    }
    model = model_of(nodes, {"x": ["n", case.channels, "h", "w_"][: rank + 2]}, ["y", "z"], constants)
    bounds = (Bounds(1, 3), case.channels, *[Bounds(SMALLEST, LARGEST)] * rank)
    options = CompileOptions(tune="none", threads=case.threads, input_shapes={"x": bounds})
    _, artifact = build(save(model, tmp_path), tmp_path, options)
    session = ort.InferenceSession(model.SerializeToString())
    sizes = [(5, 5), (70, 70), (5, 70), (70, 5), (7, 7), (48, 16), (33, 49)]
    sizes += [tuple(int(v) for v in RNG.integers(SMALLEST, LARGEST + 1, 2)) for _ in range(6)]
    with rt.load(artifact, threads=case.threads) as loaded:
        for number, size in enumerate(sizes):
            shape = (1 + number % 3, case.channels, *size[:rank])
            x = RNG.standard_normal(shape).astype("float32")
            got = loaded.run({"x": x})
            for output, value in zip(("y", "z"), session.run(["y", "z"], {"x": x}), strict=True):
                assert got[output].shape == value.shape
                np.testing.assert_allclose(got[output], value, rtol=1e-4, atol=1e-4, err_msg=str(shape))


def test_what_follows_a_convolution_is_part_of_its_kernel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Clip", ["a", "low", "high"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["d"]),
        helper.make_node("Add", ["d", "c"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    constants = {
        "w": RNG.standard_normal((8, 3, 3, 3)).astype("float32"),
        "b": RNG.standard_normal(8).astype("float32"),
        "v": RNG.standard_normal((8, 8, 1, 1)).astype("float32"),
        "low": np.float32(0),
        "high": np.float32(6),
    }
    model = model_of(nodes, {"x": [1, 3, "h", "w_"]}, ["y"], constants)
    shape = (1, 3, Bounds(8, 64), Bounds(8, 64))
    options = CompileOptions(tune="none", threads=1, input_shapes={"x": shape})
    imported = to_relax(load_source(save(model, tmp_path), options), fallback_allowed=True)
    lowered = lower(imported.mod, detect(), options, Silent(), parts=imported.parts)
    kernels = lowered.kernels.values()
    nodes_of = {info.nodes for info in kernels if info.schedule == "free sizes"}
    assert nodes_of == {(0, 1), (2, 3, 4)}

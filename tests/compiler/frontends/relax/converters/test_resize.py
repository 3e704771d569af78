"""Resizing against the standard's evaluator, to 1e-5 of the largest value; nearest neighbours exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(10).standard_normal((1, 2, 5, 7)).astype("float32")


def resized(name: str, operand: str = "scales", **attributes: object) -> object:
    names = ["x", "", "scales", ""] if operand == "scales" else ["x", "", "", "sizes"]
    return helper.make_node("Resize", names, [name], **attributes)


CONSTANTS = {
    "scales": np.array([1, 1, 0.6, 1.7], "float32"),
    "sizes": np.array([1, 2, 3, 9], "int64"),
}


def test_interpolations(tmp_path: Path) -> None:
    nodes = [
        resized("linear", mode="linear"),
        resized("corners", "sizes", mode="linear", coordinate_transformation_mode="align_corners"),
        resized("cubic", "sizes", mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
        resized("smooth", mode="linear", antialias=1),
        resized("symmetric", mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
    ]
    outputs = dict.fromkeys((node.output[0] for node in nodes), "float32")  # type: ignore[attr-defined]
    model = model_of(nodes, {"x": X}, outputs, CONSTANTS)  # type: ignore[arg-type]
    assert_native(model, {"x": X}, tmp_path, atol=1e-5)


def test_nearest_neighbours_of_integers(tmp_path: Path) -> None:
    x = np.arange(70, dtype="int32").reshape(1, 2, 5, 7)
    kinds = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    nodes = [resized(kind, mode="nearest", nearest_mode=kind) for kind in kinds]
    model = model_of(nodes, {"x": x}, dict.fromkeys(kinds, "int32"), CONSTANTS)  # type: ignore[arg-type]
    assert_native(model, {"x": x}, tmp_path)

"""MediaPipe's operators beside their published definitions, written out pixel by pixel."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")

import edgec.runtime as rt
from edgec.compiler.errors import UnsupportedModel
from edgec.compiler.frontends.tflite.flat import read
from edgec.compiler.frontends.tflite.load import to_onnx
from edgec.compiler.options import CompileOptions
from tests.compiler.frontends.tflite.models import Cases
from tests.compiler.onnx_models import build

SAME, VALID = 1, 2


def outputs_of(cases: Cases, folder: Path) -> list[np.ndarray]:
    """What the compiled model returns."""
    options = CompileOptions(tune="none", threads=1, fallback=False)
    _, artifact = build(cases.save(folder, shaped=False), folder, options)
    with rt.load(artifact, threads=1) as model:
        got = model.run(cases.inputs_by_name())
    return [got[cases.tensors[index].name] for index in cases.outputs]


def out_of(cases: Cases, shape: tuple[int, ...]) -> int:
    return cases.tensor(shape)


def transposed_convolution(
    x: np.ndarray, weights: np.ndarray, bias: np.ndarray, padding: int, strides: tuple[int, int]
) -> np.ndarray:
    batch, height, width, _ = x.shape
    kh, kw = weights.shape[1:3]
    missing = [0, 0]
    if padding == SAME:
        missing = [
            max(0, k - (n - 1) % s - 1) for k, n, s in zip((kh, kw), (height, width), strides, strict=True)
        ]
    shape = [
        s * (n - 1) + k - m for s, n, k, m in zip(strides, (height, width), (kh, kw), missing, strict=True)
    ]
    y = np.tile(bias, (batch, *shape, 1)).astype(np.float64)
    for row in range(height):
        for column in range(width):
            for i in range(kh):
                for j in range(kw):
                    at = (row * strides[0] - missing[0] // 2 + i, column * strides[1] - missing[1] // 2 + j)
                    if 0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]:
                        y[:, at[0], at[1]] += x[:, row, column] @ weights[:, i, j].T
    return y


@pytest.mark.parametrize("padding", [SAME, VALID])
def test_transposed_convolution_with_bias(padding: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(padding)
    cases, expected = Cases(), []
    for kernel, strides, size in (
        ((2, 2), (2, 2), (5, 4)),
        ((3, 2), (2, 1), (4, 6)),
        ((1, 4), (1, 3), (3, 3)),
    ):
        x = rng.standard_normal((2, *size, 3)).astype("float32")
        weights = rng.standard_normal((4, *kernel, 3)).astype("float32")
        bias = rng.standard_normal(4).astype("float32")
        wanted = transposed_convolution(x, weights, bias, padding, strides)
        custom = struct.pack("<5i", padding, strides[1], strides[0], 0, 0)
        inputs = [cases.input(x), cases.constant(weights), cases.constant(bias)]
        cases.op("Convolution2DTransposeBias", inputs, [out_of(cases, wanted.shape)], custom=custom)
        expected.append(wanted)
    for got, wanted in zip(outputs_of(cases, tmp_path), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def pooled(
    x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], padding: int
) -> list[np.ndarray]:
    """Values and places of the largest value of each window, the first one of equals."""
    batch, height, width, channels = x.shape
    counts, begins = [], []
    for n, k, s in zip((height, width), kernel, strides, strict=True):
        count = -(-n // s) if padding == SAME else (n - k + s) // s
        counts.append(count)
        begins.append(max((count - 1) * s + k - n, 0) // 2)
    values, places = (np.zeros((batch, *counts, channels), "float32") for _ in range(2))
    for at in np.ndindex(values.shape):
        b, row, column, c = at
        best, place = np.finfo("float32").min, 0
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                y, z = row * strides[0] - begins[0] + i, column * strides[1] - begins[1] + j
                if 0 <= y < height and 0 <= z < width and x[b, y, z, c] > best:
                    best, place = x[b, y, z, c], i * kernel[1] + j
        values[at], places[at] = best, place + np.float32(0.1)
    return [values, places]


def test_pooling_that_tells_the_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases, expected = Cases(), []
    for kernel, strides, padding in (((2, 2), (2, 2), SAME), ((3, 2), (2, 2), SAME), ((2, 3), (1, 2), VALID)):
        x = np.round(rng.standard_normal((2, 5, 7, 3)) * 2).astype("float32")  # with equal values
        wanted = pooled(x, kernel, strides, padding)
        custom = struct.pack("<6i", padding, strides[1], strides[0], kernel[1], kernel[0], 0)
        made = [out_of(cases, wanted[0].shape), out_of(cases, wanted[1].shape)]
        cases.op("MaxPoolingWithArgmax2D", [cases.input(x)], made, custom=custom)
        expected += wanted
    for got, wanted in zip(outputs_of(cases, tmp_path), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_unpooling_puts_values_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 6, 3)).astype("float32")
    values, places = pooled(x, (2, 2), (2, 2), SAME)
    cases = Cases()
    custom = struct.pack("<6i", SAME, 2, 2, 2, 2, 0)
    inputs = [cases.input(values), cases.input(places)]
    cases.op("MaxUnpooling2D", inputs, [out_of(cases, x.shape)], custom=custom)
    # TensorFlow's own operator of this name counts places from the picture's first value
    row, column, channel = np.meshgrid(range(2), range(3), range(3), indexing="ij")
    inside = places.astype(int)
    whole = ((row * 2 + inside // 2) * 6 + column * 2 + inside % 2) * 3 + channel
    inputs = [cases.input(values), cases.input(whole.astype(np.int32))]
    cases.op("MaxUnpooling2D", inputs, [out_of(cases, x.shape)], custom=custom)
    windows = x.reshape(2, 2, 2, 3, 2, 3)
    wanted = np.where(windows == windows.max(axis=(2, 4), keepdims=True), windows, 0).reshape(x.shape)
    for got in outputs_of(cases, tmp_path):
        np.testing.assert_array_equal(got, wanted)


def matrix_of(marks: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """The matrix by its definition: a product of shifts, a rotation and a scale."""
    left, right = (marks[options[f"{side}_rotation_idx"], :2] for side in ("left", "right"))
    turn = options.get("target_rotation_radians", 0) - np.arctan2(*(right - left)[::-1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = marks[options["subset_idxs"], :2] @ rotation.T
    size = np.ptp(turned, axis=0)
    matrix = np.eye(4)
    shift, scale = np.eye(4), np.eye(4)
    matrix[:2, 3] = rotation.T @ ((turned.max(0) + turned.min(0)) / 2)
    back = np.eye(4)
    back[:2, :2] = rotation.T
    out = np.array([options["output_width"], options["output_height"]])
    scale[:2, :2] = np.diag(np.array([options["scale_x"], options["scale_y"]]) * size / out)
    shift[:2, 3] = -out / 2
    return matrix @ back @ scale @ shift


def test_matrices_from_landmarks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases, expected = Cases(), []
    common = {"output_width": 16, "output_height": 12, "scale_x": 1.5, "scale_y": 1.25}
    for ends, further in (((3, 9), {}), ((9, 3), {"target_rotation_radians": 0.7}), ((4, 4), {})):
        marks = (rng.random((1, 20, 3)) * 48).astype("float32")
        named = {"left_rotation_idx": ends[0], "right_rotation_idx": ends[1]}
        options = common | further | named | {"subset_idxs": [1, 5, 7, 11, 13, 2]}
        cases.op(
            "Landmarks2TransformMatrix", [cases.input(marks)], [out_of(cases, (1, 4, 4))], custom=options
        )
        expected.append(matrix_of(marks[0].astype(float), options))
    for got, wanted in zip(outputs_of(cases, tmp_path), expected, strict=True):
        np.testing.assert_allclose(got[0], wanted, atol=2e-5)


def warped(x: np.ndarray, matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = x.shape[:2]
    y = np.zeros((height, width, x.shape[2]))
    for at in np.ndindex(height, width):
        across, down = (matrix @ [at[1] + 0.5, at[0] + 0.5, 0, 1])[:2] - 0.5
        if not (0 <= across <= columns - 1 and 0 <= down <= rows - 1):
            continue
        i, j = int(down), int(across)
        for k, p in ((i, 1 - (down - i)), (i + 1, down - i)):
            for n, q in ((j, 1 - (across - j)), (j + 1, across - j)):
                if p * q:
                    y[at] += p * q * x[k, n]
    return y


def test_pictures_and_landmarks_by_a_matrix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = np.eye(4, dtype="float32")
    matrix[:2, :2] = [[0.8, -0.3], [0.4, 0.9]]
    matrix[:2, 3] = [1.3, -2.1]
    x = rng.standard_normal((1, 9, 11, 4)).astype("float32")
    flat, solid = (rng.standard_normal((1, 7, n)).astype("float32") for n in (2, 3))
    cases = Cases()
    by = cases.input(matrix[None])
    size = {"output_height": 8, "output_width": 10}
    cases.op("TransformTensorBilinear", [cases.input(x), by], [out_of(cases, (1, 8, 10, 4))], custom=size)
    for marks in (flat, solid):
        cases.op("TransformLandmarks", [cases.input(marks), by], [out_of(cases, marks.shape)])
    picture, moved, moved_solid = outputs_of(cases, tmp_path)
    np.testing.assert_allclose(picture[0], warped(x[0], matrix.astype(float), 8, 10), atol=1e-5)
    wanted = flat[0] @ matrix[:2, :2].T + matrix[:2, 3]
    np.testing.assert_allclose(moved[0], wanted, atol=1e-5)
    np.testing.assert_allclose(moved_solid[0, :, 2], solid[0, :, 2])
    assert np.abs(moved_solid[0, :, :2] - (solid[0, :, :2] @ matrix[:2, :2].T + matrix[:2, 3])).max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "inputs", "custom", "told"),
    [
        ("MaxPoolingWithArgmax2D", 1, b"\1\0", "parameters have 2 bytes"),
        ("MaxPoolingWithArgmax2D", 1, struct.pack("<6i", 9, 2, 2, 2, 2, 0), "padding number 9"),
        ("MaxUnpooling2D", 2, struct.pack("<6i", 1, 1, 1, 2, 2, 0), "overlap or leave gaps"),
        ("TransformTensorBilinear", 1, b"", "has 1 inputs, and the operator 2"),
        ("Landmarks2TransformMatrix", 1, {"subset": [1]}, "first version"),
    ],
)
def test_what_does_not_belong_to_an_operator(
    kind: str, inputs: int, custom: bytes | dict[str, Any], told: str, tmp_path: Path
) -> None:
    cases = Cases()
    x = np.zeros((1, 4, 4, 2), "float32")
    made = [out_of(cases, (1, 2, 2, 2)) for _ in range(2 if "Argmax" in kind else 1)]
    cases.op(kind, [cases.input(x) for _ in range(inputs)], made, custom=custom)
    path = cases.save(tmp_path, shaped=False)
    with pytest.raises(UnsupportedModel, match=told):
        to_onnx(read(path.read_bytes(), path), path)

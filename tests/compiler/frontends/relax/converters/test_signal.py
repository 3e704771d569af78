"""Fourier transforms against numpy, to 1e-4 of the largest value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

X = np.random.default_rng(11).standard_normal((2, 12)).astype("float32")


def pairs(spectrum: np.ndarray) -> np.ndarray:
    return np.stack([spectrum.real, spectrum.imag], axis=-1).astype("float32")


def test_forwards_back_and_padded(tmp_path: Path) -> None:
    real = X[..., None]
    nodes = [
        helper.make_node("DFT", ["x", "", "axis"], ["whole"]),
        helper.make_node("DFT", ["x", "longer", "axis"], ["half"], onesided=1),
        helper.make_node("DFT", ["whole", "", "axis"], ["back"], inverse=1),
    ]
    expected = {
        "whole": pairs(np.fft.fft(X)),
        "half": pairs(np.fft.rfft(X, 16)),
        "back": pairs(X.astype("complex64")),
    }
    constants = {"axis": np.array(1, "int64"), "longer": np.array(16, "int64")}
    model = model_of(nodes, {"x": real}, dict.fromkeys(expected, "float32"), constants)
    assert_native(model, {"x": real}, tmp_path, expected, atol=1e-4)


def test_short_times_under_a_window(tmp_path: Path) -> None:
    window = np.hanning(6).astype("float32")
    node = helper.make_node("STFT", ["x", "step", "window"], ["y"])
    frames = np.stack([X[:, i : i + 6] * window for i in (0, 3, 6)], axis=1)
    constants = {"step": np.array(3, "int64"), "window": window}
    model = model_of([node], {"x": X}, {"y": "float32"}, constants)
    assert_native(model, {"x": X}, tmp_path, {"y": pairs(np.fft.rfft(frames))}, atol=1e-4)

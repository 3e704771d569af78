"""Support vector regression against numpy, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of

RNG = np.random.default_rng(14)
X, VECTORS = RNG.standard_normal((4, 3)).astype("float32"), RNG.standard_normal((5, 3)).astype("float32")
WEIGHTS = RNG.standard_normal(5).astype("float32")


def test_each_kernel(tmp_path: Path) -> None:
    gamma, offset = np.float32(0.4), np.float32(0.5)
    products = X @ VECTORS.T
    near = {
        "LINEAR": products,
        "RBF": np.exp(-gamma * ((X[:, None] - VECTORS) ** 2).sum(axis=2)),
        "POLY": (gamma * products + offset) ** 3,
        "SIGMOID": np.tanh(gamma * products + offset),
    }
    nodes = [
        helper.make_node(
            "SVMRegressor",
            ["x"],
            [kind],
            domain="ai.onnx.ml",
            kernel_type=kind,
            kernel_params=[0.4, 0.5, 3.0],
            coefficients=[float(v) for v in WEIGHTS],
            support_vectors=[float(v) for v in VECTORS.reshape(-1)],
            n_supports=5,
            rho=[0.3],
        )
        for kind in near
    ]
    expected = {kind: (k @ WEIGHTS + np.float32(0.3))[:, None].astype("float32") for kind, k in near.items()}
    model = model_of(nodes, {"x": X}, dict.fromkeys(near, "float32"))
    assert_native(model, {"x": X}, tmp_path, expected, rtol=1e-5, atol=1e-5)

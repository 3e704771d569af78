"""Several targets at once: nothing is done twice that is the same for all, and the results are those of compiles
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import edgec.compiler.shared as module
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.shared import Shared
from edgec.targets import load_target
from tests.compiler.onnx_models import model_of, save

RNG = np.random.default_rng(3)
NAMES = ("x86-64-v2", "x86-64-v3")
QUICK = CompileOptions(tune="none", threads=1)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    constants = {"w": RNG.standard_normal((16, 8, 3, 3)).astype("float32")}
    return save(
        model_of(nodes, {"x": [1, 8, 12, 12]}, ["y"], constants), tmp_path_factory.mktemp("model"), "m.onnx"
    )


def counting(name: str, made: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def counted(*args: Any, **more: Any) -> Any:
        calls[name] += 1
        return made(*args, **more)

    return counted


def test_front_end_and_reference_run_once(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    for name in ("load_source", "to_relax", "expected_for"):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name), calls))
    shared = Shared()
    together = {
        name: compile_model(
            model_file, load_target(name), QUICK, output=tmp_path / f"{name}.edge", shared=shared
        )
        for name in NAMES
    }
    assert calls == {"load_source": 1, "to_relax": 1, "expected_for": 1}
    for name, result in together.items():
        alone = compile_model(model_file, load_target(name), QUICK, output=tmp_path / "alone.edge")
        assert result.evidence["verified"]
        assert result.config == alone.config
        assert result.lowered.code == alone.lowered.code
        assert result.evidence["outputs"] == alone.evidence["outputs"]


def test_other_shapes_are_read_anew(model_file: Path) -> None:
    shared = Shared()
    first = shared.source(model_file, QUICK)
    assert shared.source(model_file, QUICK) is first
    assert shared.source(model_file, CompileOptions(input_shapes={"x": (1, 8, 12, 12)})) is not first

"""Verification begins while the model is lowered: one process for both, and none is left where lowering fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgec.compiler import build, shared
from edgec.compiler.errors import ModelError
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify import ahead, run
from edgec.compiler.verify.process import Child, started
from edgec.targets import detect
from tests.compiler.small_models import model_of, save


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Child]]:
    """The processes that are started, by who starts them."""
    found: dict[str, list[Child]] = {"ahead": [], "run": []}

    def noted(by: str) -> Any:
        @contextmanager
        def start(*args: Any) -> Iterator[Child]:
            with started(*args) as child:
                found[by].append(child)
                yield child

        return start

    for module in (ahead, run):
        monkeypatch.setattr(module, "started", noted(module.__name__.rpartition(".")[2]))
    return found


def model(folder: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((8, 8)).astype("f4")
    return save(
        model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 8]}, ["y"], {"w": weights}),
        folder,
    )


def test_what_began_while_the_model_was_lowered_is_what_verifies_it(
    begun: dict[str, list[Child]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = []
    monkeypatch.setattr(shared, "expected_for", lambda *args: expected.append(1) or EXPECTED(*args))
    options = CompileOptions(tune="none", threads=1)
    result = compile_model(model(tmp_path), detect(), options, output=tmp_path / "m.edge")
    assert result.evidence["verified"]
    assert result.evidence["certificate"]["onnxruntime_ms"] > 0
    assert (len(begun["ahead"]), len(begun["run"]), len(expected)) == (1, 0, 1)
    assert begun["ahead"][0].process.returncode == 0


EXPECTED = shared.expected_for


def test_no_process_is_left_where_lowering_fails(
    begun: dict[str, list[Child]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: object) -> None:
        raise ModelError("not this one")

    monkeypatch.setattr(build, "build", fails)
    with pytest.raises(ModelError, match="not this one"):
        compile_model(model(tmp_path), detect(), CompileOptions(tune="none"), output=tmp_path / "m.edge")
    (child,) = begun["ahead"]
    assert child.process.returncode is not None
    assert not child.folder.exists()
    assert not list(tmp_path.glob("*.edge"))

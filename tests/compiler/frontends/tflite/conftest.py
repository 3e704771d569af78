"""How the models of this folder are judged: as ONNX in every run, and compiled in the long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, params=["imported", pytest.param("compiled", marks=pytest.mark.long)])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tests that call `assert_same` run twice: what the importer writes is fast to compare, compiled code is not."""
    pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
    from tests.compiler.frontends.tflite import models

    before, models.WAY = models.WAY, str(request.param)
    yield str(request.param)
    models.WAY = before

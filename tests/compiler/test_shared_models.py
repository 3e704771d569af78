"""Real files that ought to be refused, and how that reads; the rest is ``scripts/compile_all.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.compiler.errors import ModelError, UnsupportedModel
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions

SHAPES = {
    "silero_vad": {"input": (1, 512)},
    "ppocrv3_en_det": {"x": (1, 3, 320, 320)},
    "bodypix": {"input": (1, 240, 320, 3)},
    "lstm_bidi_bytes": {"input": (1, 32)},
}


def test_an_operator_that_nobody_knows(shared_data: Path) -> None:
    path = shared_data / "onnx/negative/kws_dscnn_requantshift.onnx"
    with pytest.raises(UnsupportedModel, match=r"RequantShift \(ai.onnx\) at 'RequantShift_17'") as caught:
        to_relax(load_source(path, CompileOptions()), fallback_allowed=True)
    assert {node.op_type for node in caught.value.nodes} == {"RequantShift"}
    assert len(caught.value.nodes) == 10


def test_a_file_from_before_the_standard(shared_data: Path) -> None:
    with pytest.raises(ModelError, match="ONNX Runtime refuses this model"):
        load_source(shared_data / "onnx/negative/superres_ir1_pytorch02.onnx", CompileOptions())


@pytest.mark.long
def test_every_other_real_model_is_imported_whole(shared_data: Path) -> None:
    for path in sorted((shared_data / "onnx").rglob("*.onnx")):
        if path.stem in ("kws_dscnn_requantshift", "superres_ir1_pytorch02"):
            continue
        shapes = next((given for part, given in SHAPES.items() if part in path.name), {})
        imported = to_relax(load_source(path, CompileOptions(input_shapes=shapes)))
        assert not imported.segments, path.name

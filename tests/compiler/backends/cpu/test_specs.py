"""Specifications as text: the keys by which winners are known do not change unnoticed."""

from __future__ import annotations

import pytest

from edgec.compiler.backends.cpu.specs import (
    ConvSpec,
    DenseSpec,
    MatmulSpec,
    PoolSpec,
    Spec,
    Window,
    decode,
    encode,
)
from edgec.compiler.graph.attention_spec import AttentionSpec, View
from edgec.compiler.operands.operands import BFLOAT16

WINDOW = Window((3, 3), (2, 2), pad=(1, 1), out=(4, 5))
VIEW = View.of((2, 8, 16))


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(1, 32, (8, 9), 48, WINDOW, 16, 16, operands=BFLOAT16),
        PoolSpec("avg_valid", 1, 2, (8, 9), WINDOW, 16),
        DenseSpec(7, 64, 100, 8, operands=BFLOAT16.emulated),
        MatmulSpec((3,), 7, 64, 100, 8),
        AttentionSpec((2,), 8, 8, 16, 16, 0.25, VIEW, VIEW, VIEW, VIEW, (0, 1, 2), 8),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_a_specification_survives_its_text(spec: Spec) -> None:
    assert decode(encode(spec)) == spec


def test_the_text_of_the_usual_case_names_no_operands() -> None:
    text = encode(DenseSpec(7, 64, 100, 8))
    assert text == '{"cols":100,"dtype":"float32","inner":64,"lanes":8,"op":"dense","rows":7}'
    bf16 = encode(DenseSpec(7, 64, 100, 8, operands=BFLOAT16.emulated))
    assert '"operands":"bfloat16-emulated"' in bf16


def test_a_tap_reaches_the_outputs_whose_input_lies_inside() -> None:
    window = Window((3, 3), (2, 2), pad=(1, 1), out=(5, 5))
    assert window.reach(1, 0, (0, 5), 9) == (1, 5)
    assert window.reach(1, 1, (0, 5), 9) == (0, 5)
    assert window.reach(1, 2, (0, 5), 9) == (0, 4)
    assert window.reach(1, 0, (0, 1), 9) == (0, 0)

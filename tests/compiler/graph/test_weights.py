"""Constants become parameters: before, expected, names and order."""

from __future__ import annotations

import numpy as np
from tvm import relax

from edgec.compiler.graph.weights import lift_weights
from tests.compiler.graph.relax_modules import const, module_of, outputs, same_structure

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((3,), 2, np.float32)


def before(builder, x):
    x = builder.emit(relax.op.add(x, const(A)), name_hint="n4_first")
    x = builder.emit(relax.op.multiply(x, const(B)), name_hint="made_by_a_pass")
    return builder.emit(relax.op.subtract(x, const(A)), name_hint="n7_last")


def test_constants_are_trailing_parameters_and_equal_ones_share_theirs():
    def expected(builder, x, a, b):
        x = builder.emit(relax.op.add(x, a))
        x = builder.emit(relax.op.multiply(x, b))
        return builder.emit(relax.op.subtract(x, a))

    got, weights = lift_weights(module_of({"x": (2, 3)}, before))
    wanted = module_of({"x": (2, 3), "a": (2, 3), "b": (3,)}, expected)
    wanted["main"] = wanted["main"].with_attr("num_input", 1)
    same_structure(got, wanted)
    assert list(weights) == ["w0_n4", "w1"]  # after the node that reads it first
    np.testing.assert_array_equal(weights["w0_n4"], A)
    np.testing.assert_array_equal(weights["w1"], B)


def test_the_same_numbers_come_from_code_and_weights():
    mod = module_of({"x": (2, 3)}, before)
    lifted, weights = lift_weights(mod)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(outputs(lifted, x, *weights.values())[0], outputs(mod, x)[0])


def test_equal_bytes_of_another_shape_or_type_are_another_weight():
    def body(builder, x):
        x = builder.emit(relax.op.add(x, const(np.zeros((2, 1)))))
        x = builder.emit(relax.op.add(x, const(np.zeros((1, 2)))))
        whole = builder.emit(relax.op.astype(relax.const(np.zeros((1, 2), np.int32)), "float32"))
        return builder.emit(relax.op.add(x, whole))

    _, weights = lift_weights(module_of({"x": (2, 2)}, body))
    assert [(array.shape, str(array.dtype)) for array in weights.values()] == [
        ((2, 1), "float32"), ((1, 2), "float32"), ((1, 2), "int32"),
    ]  # fmt: skip


def test_a_model_without_constants_has_no_weights():
    mod = module_of({"x": (2,)}, lambda builder, x: builder.emit(relax.op.nn.relu(x)))
    lifted, weights = lift_weights(mod)
    assert weights == {}
    assert int(lifted["main"].attrs["num_input"]) == 1

"""Which tensors of a network become half precision."""

import numpy as np
import tvm
from tvm import relax

from edgec.compiler.backends.cpu.layouts.half_precision import in_half_precision
from edgec.compiler.graph.rewrite import constant, dtype_of, op_name
from edgec.compiler.operands.operands import FLOAT16, FLOAT32


def network(weight=0.5):
    """A convolution, then slices of it, a sigmoid, a product of both, their concatenation and a mean."""
    builder, data = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 16, 8, 8), "float32"))
    with builder.function("main", [data]):
        with builder.dataflow():
            filters = constant(np.full((16, 16, 1, 1), weight, np.float32))
            made = builder.emit(relax.op.nn.conv2d(data, filters), name_hint="n0_conv")
            first = builder.emit(relax.op.strided_slice(made, [1], [0], [8]), name_hint="n1_slice")
            curve = builder.emit(relax.op.sigmoid(first), name_hint="n2_sigmoid")
            product = builder.emit(relax.op.multiply(first, curve), name_hint="n3_mul")
            joined = builder.emit(relax.op.concat([product, made], axis=1), name_hint="n4_concat")
            out = builder.emit_output(relax.op.mean(joined, axis=[2, 3]))
        builder.emit_func_output(out)
    return builder.get()


def kinds(mod: tvm.IRModule) -> dict[str, str]:
    bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
    return {op_name(b.value): dtype_of(b.var) for b in bindings if op_name(b.value) not in ("", "astype")}


def test_products_and_what_moves_them_are_halves_and_functions_and_means_are_not():
    assert kinds(in_half_precision(network(), lambda _node: FLOAT16)) == {
        "nn.conv2d": "float16",
        "strided_slice": "float16",
        "sigmoid": "float32",
        "multiply": "float16",
        "concat": "float16",
        "mean": "float32",
    }


def test_nothing_changes_where_no_node_multiplies_halves():
    assert in_half_precision(network(), lambda _node: FLOAT32) is None


def test_weights_that_are_infinite_in_half_precision_stay_wide():
    assert in_half_precision(network(weight=1e5), lambda _node: FLOAT16) is None
    assert in_half_precision(network(weight=1e-9), lambda _node: FLOAT16) is None

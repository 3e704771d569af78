"""The tools that passes rewrite functions with."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax, topi

from edgec.compiler.graph.rewrite import (
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    map_leaves,
    op_name,
    shape_of,
)
from tests.compiler.graph.relax_modules import bindings_of, chain, const, module_of, same_structure

BODY = chain(relax.op.nn.relu, lambda x: relax.op.add(x, const([1.0, 2.0])), relax.op.nn.relu)


def test_a_walker_that_changes_nothing_gives_the_same_module():
    mod = module_of({"x": (3, 2)}, BODY)
    same_structure(Walker(mod).run(), mod)


def test_a_walker_replaces_calls_and_keeps_their_names():
    class Tanh(Walker):
        def visit(self, var, call):
            return relax.op.tanh(call.args[0]) if op_name(call) == "nn.relu" else call

    got = Tanh(module_of({"x": (3, 2)}, BODY)).run()
    expected = chain(relax.op.tanh, lambda x: relax.op.add(x, const([1.0, 2.0])), relax.op.tanh)
    same_structure(got, module_of({"x": (3, 2)}, expected))
    assert [str(binding.var.name) for binding in bindings_of(got)][:3] == ["n0_v", "n1_v", "n2_v"]


def test_a_call_may_become_a_constant_or_another_variable():
    class Drop(Walker):
        def visit(self, var, call):
            return constant(np.ones(2, np.float32)) if op_name(call) == "nn.relu" else call.args[0]

    body = chain(relax.op.nn.relu, lambda x: relax.op.add(x, const([1.0, 2.0])))
    got = Drop(module_of({"x": (2,)}, body)).run()
    (last,) = bindings_of(got)[-1:]
    np.testing.assert_array_equal(array_of(last.value), [1, 1])


def test_functions_that_nothing_calls_any_more_go():
    class Plain(Walker):
        def visit(self, var, call):
            return relax.op.nn.relu(call.args[1].fields[0])

    def body(builder, x):
        return builder.emit_te(topi.tanh, x, primfunc_name_hint="tanh")

    got = Plain(module_of({"x": (2,)}, body)).run()
    assert [gv.name_hint for gv in got.get_global_vars()] == ["main"]


def test_a_walker_counts_who_reads_a_value():
    def body(builder, x):
        a = builder.emit(relax.op.nn.relu(x))
        return builder.emit(relax.op.add(a, a))

    mod = module_of({"x": (2,)}, body)
    walker = Walker(mod)
    walker.run()
    assert walker.uses[bindings_of(mod)[0].var] == 2
    assert walker.uses[bindings_of(mod)[1].var] == 1


def test_leaves_are_found_and_replaced_at_any_depth():
    x, y = (relax.Var(name, relax.TensorType((2,), "float32")) for name in "xy")
    one = const([1.0, 1.0])
    nested = relax.Tuple([relax.op.add(x, one), relax.TupleGetItem(relax.Tuple([x, y]), 1)])
    assert [leaf.same_as(x) for leaf in leaves(nested)] == [True, False, True, False]
    swapped = map_leaves(nested, lambda leaf: y if leaf.same_as(x) else leaf)
    assert not any(leaf.same_as(x) for leaf in leaves(swapped))
    assert sum(leaf.same_as(y) for leaf in leaves(swapped)) == 3


def test_types_and_names_are_read_off_expressions():
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    call = relax.BlockBuilder().normalize(relax.op.nn.relu(x))
    assert (shape_of(call), dtype_of(call), op_name(call)) == ((2, 3), "float32", "nn.relu")
    assert op_name(x) == ""
    assert array_of(x) is None
    assert is_tensor(x)
    assert not is_tensor(relax.Var("u", relax.TensorType(None, "float32", ndim=2)))
    turned = np.arange(6, dtype=np.int8).reshape(2, 3).T
    np.testing.assert_array_equal(array_of(constant(turned)), turned)
    assert isinstance(constant(turned), tvm.ir.GenericConst)

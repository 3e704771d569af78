"""An operand seen through transposes, slices and splits is the tensor behind them, read in another order."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tvm import relax

from edgec.compiler.graph.rewrite import shape_of
from edgec.compiler.graph.views import Views, scalar_product
from tests.compiler.graph.relax_modules import bindings_of, const, module_of, outputs

SHAPE = (2, 6, 4)


def second_part(builder, x):
    parts = builder.emit(relax.op.split(x, 3, axis=1))
    return builder.emit(relax.TupleGetItem(parts, 1))


def part_of_uneven_split(builder, x):
    parts = builder.emit(relax.op.split(x, [1, 4], axis=-2))
    return builder.emit(relax.TupleGetItem(parts, 1))


def slice_from_the_end(builder, x):
    return builder.emit(relax.op.strided_slice(x, [1, 2], [-4, 1], [6, 3]))


def turned_slice(builder, x):
    turned = builder.emit(relax.op.permute_dims(x, [2, 0, 1]))
    cut = builder.emit(relax.op.strided_slice(turned, [0], [1], [3]))
    return builder.emit(relax.op.permute_dims(cut, [1, 2, 0]))


def reversed_axes(builder, x):
    return builder.emit(relax.op.permute_dims(x))


def axis_of_one(builder, x):
    wide = builder.emit(relax.op.expand_dims(x, [1]))
    return builder.emit(relax.op.permute_dims(wide, [0, 2, 1, 3]))


def scaled_twice(builder, x):
    half = builder.emit(relax.op.multiply(x, const(0.5)))
    turned = builder.emit(relax.op.permute_dims(half, [0, 2, 1]))
    return builder.emit(relax.op.divide(turned, const(4.0)))


BODIES = [
    second_part, part_of_uneven_split, slice_from_the_end, turned_slice, reversed_axes, axis_of_one, scaled_twice,
]  # fmt: skip


def views_of(mod, opaque=()):
    values = {binding.var: binding.value for binding in bindings_of(mod)}
    return Views(values, opaque), mod["main"].body.body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_reading_through_the_view_gives_the_operand(body):
    mod = module_of({"x": SHAPE}, body)
    views, result = views_of(mod)
    alias = views.values[result]
    operand, scale = views.scaled(alias if isinstance(alias, relax.Var) else result)
    assert operand.source.same_as(mod["main"].params[0])
    x = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    (expected,) = outputs(mod, x)
    for position in product(*(range(n) for n in expected.shape)):
        assert x[tuple(operand.view.at(position))] * scale == expected[position]


@pytest.mark.parametrize(
    "step",
    [
        lambda x: relax.op.strided_slice(x, [2], [0], [4], [2]),
        lambda x: relax.op.reshape(x, (2, 3, 8)),
        lambda x: relax.op.multiply(x, const(np.arange(4))),
        relax.op.nn.relu,
    ],
    ids=["strides", "reshape", "vector", "relu"],
)
def test_what_moves_or_changes_elements_ends_the_view(step):
    mod = module_of({"x": SHAPE}, lambda builder, x: builder.emit(step(x)))
    views, _ = views_of(mod)
    var = bindings_of(mod)[0].var
    operand, scale = views.scaled(var)
    assert operand.source.same_as(var)
    assert operand.view.shape == shape_of(var)
    assert scale == 1.0


def test_nothing_is_seen_behind_an_opaque_variable():
    mod = module_of({"x": SHAPE}, turned_slice)
    turned = bindings_of(mod)[0].var
    views, _ = views_of(mod, {turned})
    operand, _ = views.scaled(bindings_of(mod)[2].var)
    assert operand.source.same_as(turned)


def test_rows_that_lie_along_an_axis_are_found_behind_a_detour():
    mod = module_of({"x": SHAPE}, turned_slice)
    views, _ = views_of(mod)
    last = bindings_of(mod)[2].var
    assert views.lying_along(last, 2).source.same_as(mod["main"].params[0])
    crossed = module_of({"x": SHAPE}, lambda builder, x: builder.emit(relax.op.permute_dims(x, [0, 2, 1])))
    views, _ = views_of(crossed)
    var = bindings_of(crossed)[0].var
    assert views.lying_along(var, 2).source.same_as(var)  # neighbours of x lie along the other axis


def test_only_a_number_that_keeps_the_shape_scales():
    x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    builder = relax.BlockBuilder()
    cases = {
        "left": (relax.op.multiply(const(3.0), x), 3.0),
        "quotient": (relax.op.divide(x, const(2.0)), 0.5),
        "by zero": (relax.op.divide(x, const(0.0)), None),
        "inverse": (relax.op.divide(const(2.0), x), None),
        "wider": (relax.op.multiply(x, const(np.ones((1, 1, 1, 1)))), None),
        "sum": (relax.op.add(x, const(2.0)), None),
    }
    for name, (call, expected) in cases.items():
        found = scalar_product(builder.normalize(call))
        assert (found and found[1]) == expected, name

"""A product, its softmax and a second product become one kernel: which ones, what it reads, and the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from edgec.compiler.graph.anchors import ANCHOR, decode
from edgec.compiler.graph.attention import fuse_attention
from edgec.compiler.graph.attention_compute import described
from edgec.compiler.graph.rewrite import op_name
from edgec.compiler.kernels.extremes import extremes
from tests.compiler.graph.relax_modules import bindings_of, const, module_of, same_numbers, same_structure

LANES = 4
HEADS, ROWS, INNER = 2, 8, 4
INPUTS = {name: (1, ROWS, HEADS, INNER) for name in "qkv"}
MASK = np.where(np.tri(ROWS), 0.0, -1e4).astype(np.float32)
TOLERANCE = 1e-5


def attention(builder, q, k, v, *, scale=0.5, mask=None, order=(0, 2, 1, 3), leak=False):
    """As exporters write it: heads moved before rows, scores scaled and masked, heads moved back."""
    query, value = (builder.emit(relax.op.permute_dims(x, [0, 2, 1, 3])) for x in (q, v))
    key = builder.emit(relax.op.permute_dims(k, [0, 2, 3, 1]))
    scores = builder.emit(relax.op.matmul(query, key), name_hint="n3_v")
    scores = builder.emit(relax.op.multiply(scores, const(scale)), name_hint="n4_v")
    if mask is not None:
        scores = builder.emit(relax.op.add(scores, mask), name_hint="n5_v")
    weights = builder.emit(relax.op.nn.softmax(scores, axis=-1), name_hint="n6_v")
    made = builder.emit(relax.op.matmul(weights, value), name_hint="n7_v")
    made = builder.emit(relax.op.permute_dims(made, list(order)), name_hint="n8_v")
    return relax.Tuple([made, weights]) if leak else made


def fused(body, inputs=INPUTS):
    """The module before and after, and the specification of its only attention."""
    before = module_of(inputs, body)
    after = fuse_attention(before, LANES)
    calls = [binding for binding in bindings_of(after) if op_name(binding.value) == "call_tir"]
    assert len(calls) == 1
    kernel = after[calls[0].value.args[0]]
    operator, fields = decode(str(kernel.attrs[ANCHOR]))
    assert operator == "attention"
    return before, after, fields, str(calls[0].var.name)


def test_the_kernel_reads_its_operands_where_they_lie_and_writes_behind_the_transpose():
    before, after, spec, name = fused(attention)
    assert not any(op_name(binding.value) == "permute_dims" for binding in bindings_of(after))
    assert (spec["batch"], spec["rows"], spec["keys"], spec["inner"], spec["cols"]) == (
        (1, HEADS),
        8,
        8,
        4,
        4,
    )
    assert spec["scale"] == 0.5
    assert spec["order"] == (0, 2, 1, 3)
    assert spec["mask"] is None
    assert name.startswith("n3and4and6and7and8_")
    same_numbers(after, before, TOLERANCE)


def test_a_constant_mask_is_laid_out_once():
    before, after, spec, _ = fused(lambda builder, q, k, v: attention(builder, q, k, v, mask=const(MASK)))
    assert spec["mask"]["shape"] == (1, 1, ROWS, ROWS)
    same_numbers(after, before, TOLERANCE)


def test_a_mask_that_comes_in_and_a_scale_in_the_query():
    def body(builder, q, k, v, m):
        q = builder.emit(relax.op.multiply(q, const(0.25)))
        return attention(builder, q, k, v, mask=m)

    before, after, spec, _ = fused(body, INPUTS | {"m": (1, 1, 1, ROWS)})
    assert spec["scale"] == 0.125
    same_numbers(after, before, TOLERANCE)


@pytest.mark.parametrize(
    ("body", "lanes"),
    [
        (lambda builder, q, k, v: attention(builder, q, k, v, leak=True), LANES),
        (attention, ROWS + 1),  # fewer queries than lanes
    ],
    ids=["weights are a result", "too few rows"],
)
def test_what_no_kernel_computes_stays_as_it_is(body, lanes):
    mod = module_of(INPUTS, body)
    same_structure(fuse_attention(mod, lanes), mod)


def test_a_softmax_over_another_axis_is_no_attention():
    def body(builder, q, k, v):
        scores = builder.emit(relax.op.matmul(q, builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))))
        weights = builder.emit(relax.op.nn.softmax(scores, axis=2))
        return builder.emit(relax.op.matmul(weights, v))

    inputs = {name: (1, 2, 8, 4) for name in "qkv"}
    mod = module_of(inputs, body)
    same_structure(fuse_attention(mod, LANES), mod)


def masked_rows(*, fill, of_the_mask=True):
    """The operator `Attention` of the standard, written out, with a mask that comes in."""

    def body(builder, q, k, v, m):
        other = m if of_the_mask else builder.emit(relax.op.add(m, const(1.0)))
        top = builder.emit_te(extremes, other, [3], keepdims=True, largest=True)
        unseen = builder.emit(relax.op.equal(top, const(-np.inf)))
        scores = builder.emit(relax.op.matmul(q, builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))))
        weights = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.add(scores, m)), axis=-1))
        weights = builder.emit(relax.op.where(unseen, const(fill), weights))
        return builder.emit(relax.op.matmul(weights, v))

    return module_of({name: (1, 2, 8, 4) for name in "qkv"} | {"m": (1, 1, 8, 8)}, body)


def test_zeros_for_queries_that_see_no_key_are_part_of_the_attention():
    after = fuse_attention(masked_rows(fill=0.0), LANES, choices=True)
    kernels = [after[b.value.args[0]] for b in bindings_of(after) if op_name(b.value) == "call_tir"]
    assert [described(kernel)[1].zeros for kernel in kernels] == [True]


@pytest.mark.parametrize("how", [{"fill": 1.0}, {"fill": 0.0, "of_the_mask": False}])
def test_other_numbers_or_other_rows_are_no_part_of_it(how):
    mod = masked_rows(**how)
    same_structure(fuse_attention(mod, LANES, choices=True), mod)


TRIANGLE = np.tri(ROWS, dtype=bool)
LOWEST = float(np.finfo("float32").min)


def band_of(body, inputs=INPUTS):
    """What is known of the keys that queries see."""
    after = fuse_attention(module_of(inputs, body), LANES, choices=True)
    calls = [binding.value for binding in bindings_of(after) if op_name(binding.value) == "call_tir"]
    found = described(after[calls[-1].args[0]])[1].band
    return found and (found.first, found.last)


def added(mask):
    return band_of(lambda builder, q, k, v: attention(builder, q, k, v, mask=const(mask.astype(np.float32))))


def test_a_constant_mask_tells_which_keys_are_seen():
    near = TRIANGLE & ~np.tri(ROWS, k=-3, dtype=bool)
    assert added(np.where(TRIANGLE, 0.0, -np.inf)) == (1 - ROWS, 0)
    assert added(np.where(near, 0.0, -np.inf)) == (-2, 0)
    assert added(np.where(np.stack([TRIANGLE, near])[None], 0.0, LOWEST)) == (1 - ROWS, 0)
    assert added(np.where(np.tri(ROWS, k=-1), 0.0, -np.inf)) == (1 - ROWS, -1)  # the first query sees none
    assert added(np.where(np.tri(ROWS, k=-1), 0.0, LOWEST)) is None  # and here all, alike
    assert added(MASK) is None  # scores of -1e4 may count
    assert added(np.zeros((ROWS, ROWS))) is None


def masked_by(make):
    """With a mask that `make(builder, m)` computes of an input `m`."""

    def body(builder, q, k, v, m):
        return attention(builder, q, k, v, mask=make(builder, m), scale=1.0)

    inputs = {**INPUTS, "m": (1, 1, 1, ROWS)}
    return band_of(body, inputs)


def test_order_is_seen_through_masks_that_come_in():
    """A mask of order beside one of padding, as exporters combine them."""
    order = const(np.where(TRIANGLE, 0.0, -np.inf).astype(np.float32))
    nothing, lowest = const(np.float32(0)), const(np.float32(-np.inf))

    def both(builder, m, fill):
        seen = builder.emit(relax.op.greater(m, nothing))
        seen = builder.emit(relax.op.logical_and(relax.const(TRIANGLE[None, None]), seen))
        return builder.emit(relax.op.where(seen, nothing, fill))

    assert masked_by(lambda builder, m: builder.emit(relax.op.add(m, order))) == (1 - ROWS, 0)
    assert masked_by(lambda builder, m: both(builder, m, lowest)) == (1 - ROWS, 0)
    assert masked_by(lambda builder, m: both(builder, m, const(np.float32(LOWEST)))) is None
    assert masked_by(lambda builder, m: builder.emit(relax.op.add(m, nothing))) is None

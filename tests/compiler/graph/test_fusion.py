"""Operators grouped into kernels: which ones join, which stay apart, and that the numbers stay."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import ANCHOR, WHOLE
from edgec.compiler.graph.fusion import MAX_GROUP, MAX_INPUTS, fuse, kernel_calls
from tests.compiler.graph.relax_modules import chain, const, module_of, same_numbers

X = {"x": (4, 8)}
ROW = const(np.arange(8))
TOLERANCE = 1e-6


def add(x):
    return relax.op.add(x, ROW)


def legalised(inputs, body, anchors=(), whole=()):
    """The module as `lower` hands it over; kernels named in `anchors` are marked as a template's."""
    with tvm.target.Target("llvm"):
        mod = relax.transform.LegalizeOps()(module_of(inputs, body))
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    functions = {}
    for gv, function in mod.functions.items():
        if isinstance(function, PrimFunc) and gv.name_hint in (*anchors, *whole):
            function = function.with_attr(ANCHOR, f"spec of {gv.name_hint}")
            function = function.with_attr(WHOLE, True) if gv.name_hint in whole else function
        functions[gv] = function
    return tvm.IRModule(functions, attrs=mod.attrs)


def groups(inputs, body, **marks):
    """The operators of each kernel, in call order; the fused module has to compute the same."""
    before = legalised(inputs, body, **marks)
    after, kernels = fuse(before)
    assert len(kernel_calls(after)) == len(kernels)
    same_numbers(after, before, TOLERANCE)
    return [kernel.ops for kernel in kernels]


def test_a_chain_of_maps_is_one_kernel_that_knows_its_nodes():
    before = legalised(X, chain(relax.op.nn.relu, add, relax.op.tanh))
    after, (kernel,) = fuse(before)
    assert kernel.ops == ("relu", "add", "tir_tanh")
    assert kernel.nodes == (0, 1, 2)
    assert kernel.anchor is None
    same_numbers(after, before, TOLERANCE)


def test_an_anchor_takes_its_epilogue_and_leads_the_kernel():
    weights = const(np.random.default_rng(0).standard_normal((8, 8)))
    body = chain(relax.op.nn.relu, lambda x: relax.op.matmul(x, weights), add, relax.op.nn.relu)
    before = legalised(X, body, anchors=["matmul"])
    after, kernels = fuse(before)
    assert [kernel.ops for kernel in kernels] == [("relu",), ("matmul", "add", "relu")]
    assert [kernel.anchor for kernel in kernels] == [None, "spec of matmul"]
    assert [kernel.nodes for kernel in kernels] == [(0,), (1, 2, 3)]
    same_numbers(after, before, TOLERANCE)


def test_an_anchor_of_several_steps_takes_none():
    weights = const(np.eye(8))
    body = chain(lambda x: relax.op.matmul(x, weights), relax.op.nn.relu)
    assert groups(X, body, whole=["matmul"]) == [("matmul",), ("relu",)]


def test_maps_join_the_reduction_behind_them_and_nothing_follows_it():
    body = chain(relax.op.nn.relu, lambda x: relax.op.sum(x, [1]), relax.op.nn.relu)
    assert groups(X, body) == [("relu", "sum"), ("relu",)]


def test_a_value_that_is_read_outside_stays_a_kernel_of_its_own():
    def body(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        second = builder.emit(relax.op.tanh(first))
        return relax.Tuple([first, second])

    assert len(groups(X, body)) == 2


def test_both_readers_of_a_value_join_when_they_meet_again():
    def body(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        left = builder.emit(relax.op.tanh(first))
        right = builder.emit(relax.op.negative(first))
        return builder.emit(relax.op.multiply(left, right))

    assert len(groups(X, body)) == 1


def test_no_kernel_reads_what_depends_on_itself():
    weights = const(np.eye(8))

    def body(builder, x):
        first = builder.emit(relax.op.nn.relu(x))
        detour = builder.emit(relax.op.matmul(first, weights))
        return builder.emit(relax.op.add(first, detour))

    assert groups(X, body) == [("relu",), ("matmul",), ("add",)]
    assert groups(X, body, anchors=["matmul"]) == [("relu",), ("matmul", "add")]


def test_a_value_is_not_computed_many_times_by_its_reader():
    body = chain(relax.op.tanh, lambda x: relax.op.broadcast_to(x, (3, 4, 8)))
    assert len(groups(X, body)) == 2
    twice = chain(relax.op.tanh, lambda x: relax.op.broadcast_to(x, (2, 4, 8)))
    assert len(groups(X, twice)) == 1


def test_a_change_of_shape_joins_no_kernel():
    body = chain(relax.op.nn.relu, lambda x: relax.op.reshape(x, (32,)), relax.op.nn.relu)
    assert len(groups(X, body)) == 3


def test_a_long_chain_is_cut():
    """By the number of operators: values inside a kernel are none of its inputs."""
    before = legalised(X, chain(*[relax.op.nn.relu, relax.op.negative] * MAX_GROUP))
    _, kernels = fuse(before)
    assert [len(kernel.ops) for kernel in kernels] == [MAX_GROUP, MAX_GROUP]


def test_a_kernel_has_no_more_computed_inputs_than_it_may():
    names = [f"x{i}" for i in range(MAX_INPUTS + 4)]

    def body(builder, *inputs):
        first, *others = [builder.emit(relax.op.sum(x, [1])) for x in inputs]
        for other in others:
            first = builder.emit(relax.op.add(first, other))
        return first

    after, kernels = fuse(legalised(dict.fromkeys(names, (2, 3)), body))
    assert sum(kernel.ops[0] == "add" for kernel in kernels) > 1
    assert max(len(after[gv].params) - 1 for gv in kernel_calls(after)) <= MAX_INPUTS


def joined_groups(body):
    """The operators of each kernel where the back end joins any two anchors."""
    before = legalised(X, body, anchors=["matmul"])
    after, kernels = fuse(before, joined=lambda first, second: f"{first} and {second}")
    same_numbers(after, before, TOLERANCE)
    return [(kernel.anchor, kernel.ops) for kernel in kernels]


def test_two_anchors_are_one_kernel_where_only_the_second_reads_the_first():
    rng = np.random.default_rng(0)
    first, second = (const(rng.standard_normal((8, 8))) for _ in range(2))

    def block(builder, x, *, shown):
        made = builder.emit(relax.op.nn.relu(builder.emit(relax.op.matmul(x, first))))
        out = builder.emit(relax.op.add(builder.emit(relax.op.matmul(made, second)), x))
        return builder.emit(relax.op.multiply(out, made)) if shown else out

    ((anchor, ops),) = joined_groups(lambda b, x: block(b, x, shown=False))
    assert ops == ("matmul", "relu", "matmul", "add")
    assert anchor == "spec of matmul and spec of matmul"
    apart = joined_groups(lambda b, x: block(b, x, shown=True))
    assert [ops for _, ops in apart] == [("matmul", "relu"), ("matmul", "add", "multiply")]

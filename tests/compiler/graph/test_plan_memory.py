"""The entry point that takes its activations as arguments: its parameters, and their placement."""

from __future__ import annotations

import tvm
from tvm import relax

from edgec.compiler.graph.memory import ALIGNMENT, plan_memory
from edgec.compiler.graph.rewrite import op_name
from tests.compiler.graph.relax_modules import chain, module_of


def planned(inputs, body):
    """The module before and after, as the virtual machine's back end hands it over, and the plan."""
    with tvm.target.Target("llvm"):
        mod = relax.transform.LegalizeOps()(module_of(inputs, body))
    before = tvm.transform.Sequential([
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ])(mod)  # fmt: skip
    return before, *plan_memory(before)


def operators(function):
    return [op_name(b.value) for block in function.body.blocks for b in block.bindings]


def disjoint(plan, first, second):
    size = 4 * 16
    a, b = plan.tensors[first].offset, plan.tensors[second].offset
    return abs(a - b) >= size


def test_activations_are_parameters_and_only_results_are_allocated():
    before, after, plan = planned({"x": (16,)}, chain(relax.op.nn.relu, relax.op.tanh, relax.op.exp))
    function = after[plan.entry]
    assert plan.entry == "main_planned"
    assert [str(param.name) for param in function.params] == ["x", "m0", "m1"]
    assert [(place.shape, place.dtype) for place in plan.tensors] == [((16,), "float32")] * 2
    made = operators(function)
    assert "memory.alloc_storage" not in made
    assert "memory.kill_tensor" not in made
    assert operators(before["main"]).count("memory.alloc_storage") > 0
    tvm.ir.assert_structural_equal(after["main"], before["main"])


def test_values_needed_at_once_lie_apart_and_others_share():
    steps = [relax.op.nn.relu, relax.op.tanh, relax.op.exp, relax.op.negative, relax.op.nn.relu]
    _, _, plan = planned({"x": (16,)}, chain(*steps))
    assert len(plan.tensors) == 4
    assert all(disjoint(plan, at, at + 1) for at in range(3))
    assert plan.bytes == 2 * 4 * 16  # two of them at a time
    assert all(place.offset % ALIGNMENT == 0 for place in plan.tensors)


def test_a_value_that_is_read_late_keeps_its_bytes():
    def body(builder, x):
        early = builder.emit(relax.op.nn.relu(x))
        value = early
        for step in (relax.op.tanh, relax.op.exp, relax.op.negative):
            value = builder.emit(step(value))
        return builder.emit(relax.op.add(value, early))

    _, _, plan = planned({"x": (16,)}, body)
    assert all(disjoint(plan, 0, other) for other in range(1, len(plan.tensors)))
    assert plan.bytes == 3 * 4 * 16


def test_a_model_without_activations_needs_no_arena():
    _, after, plan = planned({"x": (16,)}, chain(relax.op.nn.relu))
    assert (plan.bytes, plan.tensors) == (0, ())
    assert len(after[plan.entry].params) == 1

"""Divide a part into what has static shapes, which compiles as any model does, and the rest that connects it.

Requires: `main` is one dataflow block, as the importer makes it.
Ensures: every tensor operator whose inputs and results have static shapes is in an island: a module of its own with
the function `main`. The rest calls islands as external functions. Islands are as few as the order of the calls allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import Call, Tuple, TupleGetItem
from tvm.tirx import IntImm, PrimFunc

from edgec.compiler.graph.control import PREFIX
from edgec.compiler.graph.rewrite import Expr, leaves, map_leaves, op_name, with_value
from edgec.compiler.graph.sources import nodes_of

EXTERNAL = ("call_pure_packed", "call_dps_packed", "tensor_to_shape", "shape_of")


@dataclass
class Divided:
    """A part taken apart.

    Attributes:
        rest: its module, which calls the islands.
        islands: modules by the name under which they are called.
    """

    rest: tvm.IRModule
    islands: dict[str, tvm.IRModule] = field(default_factory=dict)


@dataclass
class _Step:
    binding: relax.Binding
    static: bool
    level: int


def divide(mod: tvm.IRModule, prefix: str) -> Divided:
    """Apply the pass (see the module's docstring); islands are called `prefix` and a number."""
    function = mod["main"]
    bindings = [b for block in function.body.blocks for b in block.bindings]
    steps = _levels(bindings, set(function.params))
    members: dict[int, list[relax.Binding]] = {}
    for step in steps:
        if step.static:
            members.setdefault(step.level, []).append(step.binding)
    members = {k: group for k, group in members.items() if any(isinstance(b.value, Call) for b in group)}
    inside = {id(b) for group in members.values() for b in group}
    read = _readers(bindings, function.body.body)
    divided = Divided(mod)
    renamed: dict[Expr, Expr] = {}
    kept: list[relax.Binding] = []
    order = sorted(range(len(steps)), key=lambda i: (steps[i].level, i))
    opened: set[int] = set()
    for i in order:
        step = steps[i]
        if id(step.binding) not in inside:
            kept.append(_renamed(step.binding, renamed))
        elif step.level not in opened:
            opened.add(step.level)
            name = f"{prefix}{len(divided.islands)}"
            group = members[step.level]
            results = [b.var for b in group if any(id(r) not in {id(m) for m in group} for r in read[b.var])]
            divided.islands[name], inputs = _island(mod, group, results)
            kept += _call(name, [renamed.get(v, v) for v in inputs], results, renamed)
    body = map_leaves(function.body.body, lambda leaf: renamed.get(leaf, leaf))
    made = relax.Function(
        list(function.params),
        relax.SeqExpr([relax.DataflowBlock(kept)], body),
        function.ret_ty,
        True,
        function.attrs,
    )
    others = {gv: f for gv, f in mod.functions.items() if gv.name_hint != "main"}
    rest = tvm.IRModule({**others, mod.get_global_var("main"): made})
    divided.rest = relax.transform.DeadCodeElimination(["main"])(relax.transform.Normalize()(rest))
    return divided


def is_whole(mod: tvm.IRModule) -> bool:
    """Whether no size of a model's own graph is symbolic, so that it needs no division."""
    function = mod["main"]
    bindings = [b for block in function.body.blocks for b in block.bindings]
    kinds = [p.ty for p in function.params] + [b.var.ty for b in bindings]
    return not any(isinstance(b, relax.MatchCast) for b in bindings) and not any(
        _is_symbolic(k) for k in kinds
    )


def varying_nodes(mod: tvm.IRModule) -> set[int]:
    """The source nodes of branches and loops, and of values whose sizes are known only when the model runs."""
    found: set[int] = set()
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            varies = isinstance(binding, relax.MatchCast) or _is_symbolic(binding.var.ty)
            if varies or _calls_part(binding.value):
                found.update(nodes_of(str(binding.var.name)))
    return found


def _calls_part(value: Expr) -> bool:
    """Whether a value is what a branch or a loop returns."""
    return op_name(value) == "call_pure_packed" and str(value.args[0].global_symbol).startswith(PREFIX)


def _is_symbolic(kind: Expr) -> bool:
    if isinstance(kind, relax.TupleType):
        return any(_is_symbolic(one) for one in kind.fields)
    shape = getattr(kind, "shape", None)
    return isinstance(kind, relax.AnyType) or (
        isinstance(shape, relax.ShapeExpr)
        and not all(isinstance(size, int | IntImm) for size in shape.values)
    )


def _levels(bindings: list[relax.Binding], _params: set[Expr]) -> list[_Step]:
    """Each binding with the number of changes between static and other ones on the way to it."""
    steps: list[_Step] = []
    makers: dict[Expr, int] = {}
    latest = (
        0  # what is not static keeps its order: a binding may define a size that a later one's type names
    )
    for at, binding in enumerate(bindings):
        static = _is_static(binding)
        before = [makers[leaf] for leaf in leaves(binding.value) if leaf in makers]
        level = max((steps[b].level + (steps[b].static != static) for b in before), default=0)
        level = max(level, 0 if static else latest)
        if level % 2 != int(static):
            level += 1
        latest = latest if static else level
        steps.append(_Step(binding, static, level))
        makers[binding.var] = at
    return steps


def _is_static(binding: relax.Binding) -> bool:
    value = binding.value
    if isinstance(binding, relax.MatchCast) or op_name(value) in EXTERNAL:
        return False
    if isinstance(value, Call) and not isinstance(value.op, tvm.ir.Op):
        return False
    if not isinstance(value, Call | Tuple | TupleGetItem):
        return False
    read = [leaf.ty for leaf in leaves(value) if isinstance(leaf, relax.Var)]
    return all(_has_static_type(kind) for kind in [binding.var.ty, *read]) and not _reads_sizes(value)


def _reads_sizes(value: Expr) -> bool:
    """Whether a kernel gets symbolic sizes beside its tensors."""
    return op_name(value) == "call_tir" and len(value.args) > 2


def _has_static_type(kind: Expr) -> bool:
    if isinstance(kind, relax.TupleType):
        return all(_has_static_type(one) for one in kind.fields)
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        return False
    return all(isinstance(size, int | IntImm) for size in kind.shape.values)


def _readers(bindings: list[relax.Binding], result: Expr) -> dict[Expr, list[Expr]]:
    found: dict[Expr, list[Expr]] = {b.var: [] for b in bindings}
    for binding in bindings:
        for leaf in leaves(binding.value):
            if leaf in found:
                found[leaf].append(binding)
    for leaf in leaves(result):
        if leaf in found:
            found[leaf].append(result)
    return found


def _renamed(binding: relax.Binding, renamed: Mapping[Expr, Expr]) -> relax.Binding:
    return with_value(binding, map_leaves(binding.value, lambda leaf: renamed.get(leaf, leaf)))


def _island(
    mod: tvm.IRModule, group: list[relax.Binding], results: list[Expr]
) -> tuple[tvm.IRModule, list[Expr]]:
    """A module of some bindings, and the outer variables that its parameters stand for."""
    own = {b.var for b in group}
    params: dict[Expr, Expr] = {}
    inner: dict[Expr, Expr] = {}

    def replace(leaf: Expr) -> Expr:
        if not isinstance(leaf, relax.Var) or not isinstance(leaf.ty, relax.TensorType | relax.TupleType):
            return leaf
        if leaf in own:
            return inner[leaf]
        if leaf not in params:
            params[leaf] = relax.Var(f"p{len(params)}", leaf.ty)
        return params[leaf]

    bindings = []
    for binding in group:
        value = map_leaves(binding.value, replace)
        inner[binding.var] = relax.DataflowVar(str(binding.var.name), binding.var.ty)
        bindings.append(relax.VarBinding(inner[binding.var], value))
    fields = [inner[var] for var in results]
    whole = relax.Var("results", relax.TupleType([var.ty for var in results]))
    bindings.append(relax.VarBinding(whole, relax.Tuple(fields)))
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], whole)
    function = relax.Function(list(params.values()), body, whole.ty, True)
    function = function.with_attr("global_symbol", "main").with_attr("num_input", len(params))
    kernels = {gv: f for gv, f in mod.functions.items() if isinstance(f, PrimFunc)}
    made = tvm.IRModule({**kernels, tvm.ir.GlobalVar("main"): function})
    return relax.transform.DeadCodeElimination(["main"])(relax.transform.Normalize()(made)), list(params)


def _call(
    name: str, inputs: list[Expr], results: list[Expr], renamed: dict[Expr, Expr]
) -> list[relax.Binding]:
    """The bindings that call an island and take its results apart."""
    kind = relax.TupleType([var.ty for var in results])
    called = relax.DataflowVar("island", kind)
    made = [relax.VarBinding(called, relax.op.call_pure_packed(name, *inputs, ty_args=kind))]
    for number, var in enumerate(results):
        # its name keeps the source node that it belongs to
        own = relax.DataflowVar(str(var.name), var.ty)
        made.append(relax.VarBinding(own, relax.TupleGetItem(called, number)))
        renamed[var] = own
    return made

"""Group the operators into kernels: an anchor with its element-wise epilogue, chains of maps, maps before a reduction,
two anchors that the back end computes as one.

Requires: every tensor operator is a `call_tir` of a PrimFunc with an `op_pattern` (LegalizeOps and
AnnotateTIROpPattern ran); anchors carry their specification under the attribute `edgec`.
Ensures: one `call_tir` a kernel; each PrimFunc that came from several operators holds their blocks in order. The
source nodes of every kernel call are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import tvm
from tvm import relax
from tvm.ir import Call, GlobalVar
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import ANCHOR, MOVES, WHOLE
from edgec.compiler.graph.rewrite import Expr, dtype_of, leaves, map_leaves, op_name, shape_of
from edgec.compiler.graph.sources import node_of, nodes_of

ELEMENTWISE, BROADCAST, INJECTIVE, REDUCE, OPAQUE = 0, 1, 2, 3, 8
MAX_GROUP = 48  # operators in one kernel; a longer chain is cut
MAX_INPUTS = 24
NARROW = ("int8", "uint8")
WIDE = "int16"  # in which a back end may keep 8-bit integers
REORDERING = ("pack", "unpack", "transpose")
Joined: TypeAlias = Callable[[str, str], str | None]


@dataclass
class Kernel:
    """One kernel call of the fused function."""

    anchor: str | None  # the anchor's specification, if a template may claim the kernel
    nodes: tuple[int, ...]  # source nodes
    ops: tuple[str, ...]  # names of the operators in it


@dataclass
class _Op:
    """A binding of the function before fusion."""

    index: int
    binding: relax.Binding
    name: str = ""
    func: PrimFunc | None = None
    pattern: int = OPAQUE
    anchor: str | None = None
    inputs: list[int] = field(default_factory=list)  # indices of the bindings it reads
    users: list[int] = field(default_factory=list)
    escapes: bool = False  # read by the function's result
    ancestors: int = 0  # bit set of the bindings it depends on
    view: bool = False
    moves: bool = False  # an anchor that computes nothing
    whole: bool = False  # an anchor of several steps, which takes no epilogue
    kernel: bool = False  # a call of a kernel; one with several results has no `func`: it is never merged

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Sizes; by name where they are known only at run time."""
        return sizes_of(self.binding.var)

    @property
    def dtype(self) -> str:
        return dtype_of(self.binding.var)


def sizes_of(expr: Expr) -> tuple[int | str, ...]:
    """The shape of a tensor, with sizes known only at run time by name."""
    return tuple(int(d) if isinstance(d, int | tvm.tirx.IntImm) else str(d) for d in expr.ty.shape.values)


def fuse(
    mod: tvm.IRModule, entry: str = "main", *, anchors_only: bool = False, joined: Joined | None = None
) -> tuple[tvm.IRModule, list[Kernel]]:
    """Apply the pass (see the module's docstring).

    Args:
        mod: the module.
        entry: the function in it.
        anchors_only: leave chains of maps as they are; then shapes may be symbolic.
        joined: the specification of one kernel for two anchors, of which the second alone reads what the first one's
            kernel makes, or None.

    Returns:
        the module, and what each kernel call is, in the order of the `call_tir` bindings of `entry`.
    """
    mod = relax.transform.DeadCodeElimination([entry])(mod)
    function = mod[entry]
    ops = _read(mod, function)
    groups = _group(ops, anchors_only)
    joint: dict[int, str] = {}
    if joined is not None:
        groups, joint = _join(ops, groups, joined)
    outlined, kernels = _outline(mod, function, ops, groups, joint, entry)
    return relax.transform.FuseTIR()(outlined), kernels


def kernel_calls(mod: tvm.IRModule, entry: str = "main") -> list[GlobalVar]:
    """The kernels that `entry` calls, in order."""
    bindings = [b for block in mod[entry].body.blocks for b in block.bindings]
    return [b.value.args[0] for b in bindings if op_name(b.value) == "call_tir"]


def kernel_users(mod: tvm.IRModule, entry: str = "main") -> dict[GlobalVar, tuple[tuple[int, ...], ...]]:
    """The kernels that `entry` calls, each with the source nodes of every call."""
    found: dict[GlobalVar, tuple[tuple[int, ...], ...]] = {}
    for block in mod[entry].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) == "call_tir":
                nodes = tuple(sorted(nodes_of(str(binding.var.name))))
                gv = binding.value.args[0]
                found[gv] = (*found.get(gv, ()), nodes)
    return found


def _read(mod: tvm.IRModule, function: relax.Function) -> list[_Op]:
    ops: list[_Op] = []
    where: dict[relax.Var, int] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            op = _Op(len(ops), binding)
            call = binding.value
            if op_name(call) == "call_tir":
                op.kernel, op.name = True, str(call.args[0].name_hint).rstrip("0123456789")
            if op_name(call) == "call_tir" and len(call.args) == 2 and isinstance(call.ty, relax.TensorType):
                func = op.func = mod[call.args[0]]
                attrs = dict(func.attrs.items()) if func.attrs else {}
                # A kernel that was written as it runs is no part of another.
                op.pattern = OPAQUE if "tirx.is_scheduled" in attrs else int(attrs.get("op_pattern", OPAQUE))
                op.anchor = str(attrs[ANCHOR]) if ANCHOR in attrs else None
                op.whole, op.moves = WHOLE in attrs, MOVES in attrs
                op.view = "tirx.is_scheduled" not in attrs and _is_view(op, call, func)
            for leaf in leaves(call):
                if isinstance(leaf, relax.Var) and leaf in where:
                    source = where[leaf]
                    op.inputs.append(source)
                    op.ancestors |= ops[source].ancestors | (1 << source)
                    if op.index not in ops[source].users:
                        ops[source].users.append(op.index)
            where[binding.var] = op.index
            ops.append(op)
    for leaf in leaves(function.body.body):
        if isinstance(leaf, relax.Var) and leaf in where:
            ops[where[leaf]].escapes = True
    return ops


def _is_view(op: _Op, call: Call, func: PrimFunc) -> bool:
    tensors = [leaf for leaf in leaves(call) if isinstance(leaf.ty, relax.TensorType)]
    given = {sizes_of(leaf) for leaf in tensors if isinstance(leaf.ty.shape, relax.ShapeExpr)}
    # A sum with zero copies as well, but is a map like any other.
    return op.shape not in given and bool(relax.analysis.has_reshape_pattern(func))


def _group(ops: list[_Op], anchors_only: bool) -> list[list[int]]:
    """Partition the bindings; a group's last member is the one whose value is read from outside."""
    taken: set[int] = set()
    groups: list[list[int]] = []
    seeds = sorted(ops, key=lambda op: (op.anchor is None, op.moves))
    for seed in seeds:
        if seed.index in taken:
            continue
        grows = seed.anchor is not None or not anchors_only
        members = _grow(ops, seed, taken) if grows else [seed.index]
        taken.update(members)
        groups.append(members)
    return sorted(groups, key=lambda group: group[-1])


def _join(ops: list[_Op], groups: list[list[int]], joined: Joined) -> tuple[list[list[int]], dict[int, str]]:
    """Merge groups of anchors that `joined` makes one kernel of.

    Returns:
        the groups, and the specification of each merged one by its last member.
    """
    anchored = {group[0]: group for group in groups if ops[group[0]].anchor is not None}
    merged: dict[int, str] = {}
    gone = set[int]()
    for group in groups:
        first, last = ops[group[0]], ops[group[-1]]
        reader = anchored.get(last.users[0]) if len(last.users) == 1 and not last.escapes else None
        if first.anchor is None or reader is None or group[-1] in merged or first.index in gone:
            continue
        second = ops[reader[0]]
        data = second.binding.value.args[1].fields[0]
        if second.anchor is None or not isinstance(data, relax.Var) or not data.same_as(last.binding.var):
            continue
        given = {at for member in (*group, *reader) for at in ops[member].inputs} - {*group, *reader}
        spec = joined(first.anchor, second.anchor)
        if spec is None or len(group) + len(reader) > MAX_GROUP or len(given) > MAX_INPUTS:
            continue
        anchored[second.index] = [*group, *reader]
        gone.add(first.index)
        merged[reader[-1]] = spec
    return [anchored.get(group[0], group) for group in groups if group[0] not in gone], merged


def _grow(ops: list[_Op], seed: _Op, taken: set[int]) -> list[int]:
    members, closed = [seed.index], [seed.index]
    if seed.func is None or seed.view or seed.whole or (seed.anchor is None and seed.pattern > INJECTIVE):
        return closed
    inside = 1 << seed.index
    frontier = sorted(seed.users)
    while frontier and len(members) < MAX_GROUP:
        at = frontier.pop(0)
        op = ops[at]
        if at in members or at in taken or not _may_join(ops, seed, op, members, inside):
            continue
        feeding = _feeders(ops, seed, op, members, taken) if seed.anchor is not None else []
        members += [*feeding, at]
        inside |= sum(1 << member for member in (*feeding, at))
        frontier = sorted({*frontier, *op.users})
        if _is_closed(ops, members) and not _only_widens(ops[closed[-1]], op):
            closed = list(members)
        if op.pattern == REDUCE:
            break
    return closed


def _may_join(ops: list[_Op], seed: _Op, op: _Op, members: list[int], inside: int) -> bool:
    if op.func is None or op.anchor is not None or op.view:
        return False
    own = [i for i in op.inputs if i in members]
    outside = [i for i in op.inputs if i not in members]
    if any(ops[i].ancestors & inside for i in outside):
        return False  # would close a cycle
    joined = {*members, op.index}
    if len({leaf for i in joined for leaf in ops[i].inputs} - joined) > MAX_INPUTS:
        return False
    if seed.anchor is not None:
        same = all(ops[i].shape == op.shape for i in own) and op.shape == seed.shape
        return same and op.pattern in (ELEMENTWISE, BROADCAST)
    if op.pattern == REDUCE:
        return all(_count(ops[i]) >= _count(op) for i in own)
    if op.pattern > INJECTIVE:
        return False
    # A resize reads its neighbours' channels as vectors in its own order, and one by one in another.
    if op.name in REORDERING and any(ops[i].name == "resize2d" for i in own):
        return False
    # A value that is computed once must not be computed many times over by its reader.
    return all(_count(op) <= 2 * _count(ops[i]) for i in own)


def _count(op: _Op) -> int:
    """The elements of a tensor of static shape."""
    return math.prod(shape_of(op.binding.var))


def _feeders(ops: list[_Op], seed: _Op, op: _Op, members: list[int], taken: set[int]) -> list[int]:
    """Maps of another tensor of 8-bit integers that only the epilogue's `op` reads: they cost less than their result.

    Such a tensor takes a quarter of the bytes of what they make of it.
    """
    found: list[int] = []
    for at in op.inputs:
        chain: list[int] = []
        while at not in members and at not in found and at not in taken:
            one = ops[at]
            if one.func is None or one.anchor is not None or one.view or one.escapes or len(one.users) != 1:
                break
            if one.pattern not in (ELEMENTWISE, BROADCAST) or one.shape != seed.shape:
                break
            chain.append(at)
            if dtype_of(one.binding.value.args[1].fields[0]) in (*NARROW, WIDE):
                found += reversed(chain)
                break
            if len(one.inputs) != 1:
                break
            at = one.inputs[0]
    return found


def _only_widens(before: _Op, op: _Op) -> bool:
    """Whether a group that could end with 8-bit integers would end with what they become: four times the bytes."""
    return before.dtype in NARROW and op.dtype not in (*NARROW, WIDE) and not op.escapes


def _is_closed(ops: list[_Op], members: list[int]) -> bool:
    within = set(members)
    last = members[-1]
    return all(
        not ops[i].escapes and all(user in within for user in ops[i].users) for i in members if i != last
    )


def _outline(
    mod: tvm.IRModule,
    function: relax.Function,
    ops: list[_Op],
    groups: list[list[int]],
    joint: dict[int, str],
    entry: str,
) -> tuple[tvm.IRModule, list[Kernel]]:
    """Make a primitive function of each group, for FuseTIR to merge."""
    others = {gv: f for gv, f in mod.functions.items() if gv.name_hint != entry}
    builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
    kernels: list[Kernel] = []
    calls: dict[int, tuple[GlobalVar, list[relax.Var]]] = {}
    for members in groups:
        if len(members) > 1:
            inner, outer_args = _primitive([ops[i] for i in members])
            inner = relax.utils.copy_with_new_vars(inner)  # names of sizes, too, are a function's own
            hint = "fused_" + "_".join(ops[i].name for i in members)
            calls[members[-1]] = (builder.add_func(inner, hint[:60]), outer_args)
    renamed: dict[relax.Var, tvm.ir.Expr] = {}
    used: set[str] = set()
    with builder.function(entry, list(function.params), attrs=dict(function.attrs or {})):
        with builder.dataflow():
            for members in groups:
                last = ops[members[-1]]
                value = _substitute(last.binding.value, renamed)
                if last.index in calls:
                    gv, args = calls[last.index]
                    value = Call(gv, [_substitute(arg, renamed) for arg in args], ret_ty=last.binding.var.ty)
                name = _unique(_base_name([ops[i] for i in members]), used)
                if isinstance(last.binding, relax.MatchCast):
                    var = builder.match_cast(value, last.binding.ty, name)
                else:
                    var = builder.emit(value, name_hint=name)
                renamed[last.binding.var] = var
                if last.kernel:
                    kernels.append(_kernel([ops[i] for i in members], joint.get(members[-1])))
            result = builder.emit_output(_substitute(function.body.body, renamed))
        builder.emit_func_output(result)
    return builder.finalize(), kernels


def _substitute(expr: tvm.ir.Expr, renamed: dict[relax.Var, tvm.ir.Expr]) -> tvm.ir.Expr:
    return map_leaves(expr, lambda leaf: renamed.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf)


def _base_name(members: list[_Op]) -> str:
    nodes = sorted({n for op in members if (n := node_of(str(op.binding.var.name))) is not None})
    return f"n{nodes[0]}_k" if nodes else "k"


def _unique(base: str, used: set[str]) -> str:
    name, count = base, 0
    while name in used:
        count += 1
        name = f"{base}x{count}"
    used.add(name)
    return name


def _kernel(members: list[_Op], joint: str | None) -> Kernel:
    nodes = {node for op in members for node in nodes_of(str(op.binding.var.name))}
    anchor = joint or next((op.anchor for op in members if op.anchor), None)
    return Kernel(anchor, tuple(sorted(nodes)), tuple(op.name for op in members))


def _primitive(members: list[_Op]) -> tuple[relax.Function, list[relax.Var]]:
    """A function with the bindings of `members`; its parameters replace the outer values that they read."""
    params: dict[tvm.ir.Expr, relax.Var] = {}
    inner: dict[relax.Var, relax.Var] = {}
    bindings: list[relax.VarBinding] = []

    def replace(leaf: tvm.ir.Expr) -> tvm.ir.Expr:
        if isinstance(leaf, relax.Var) and leaf in inner:
            return inner[leaf]
        if not isinstance(leaf, relax.Var) and not isinstance(leaf.ty, relax.TensorType):
            return leaf
        if leaf not in params:
            params[leaf] = relax.Var(f"p{len(params)}", leaf.ty)
        return params[leaf]

    for op in members:
        old = op.binding.var
        value = map_leaves(op.binding.value, replace)
        last = op is members[-1]
        var = (relax.Var if last else relax.DataflowVar)(str(old.name), old.ty)
        inner[old] = var
        bindings.append(relax.VarBinding(var, value))
    out = inner[members[-1].binding.var]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], out)
    function = relax.Function(list(params.values()), body, out.ty, True, None)
    return function.with_attr("Primitive", True), list(params)

"""A second entry point that allocates only its results: activations are arguments, placed in one arena.

Requires: kernels are plain calls that write into tensors allocated before them, and `StaticPlanBlockMemory` has told
the allocations of a call (storage that goes back) from the results (which leave).
Ensures: the entry takes the inputs, the weights, then one tensor for every activation and every view of one, all of
them parts of an arena. Two parts share bytes only when no call needs both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax
from tvm.ir import GlobalVar, Tuple, TupleGetItem

from edgec.compiler.graph.rewrite import Expr, dtype_of, leaves, map_leaves, op_name, shape_of
from edgec.compiler.lowered import Place, Plan

ALIGNMENT = 64
_DROPPED = ("memory.kill_tensor", "memory.kill_storage", "memory.alloc_storage")


@dataclass
class _Life:
    """A buffer of the arena: its size, and the first and the last binding that needs it."""

    size: int
    first: int
    last: int


@dataclass
class _Rewrite:
    """The walk over one function."""

    lives: list[_Life] = field(default_factory=list)
    params: list[relax.Var] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)  # of each parameter
    renamed: dict[relax.Var, Expr] = field(default_factory=dict)
    planned: set[relax.Var] = field(default_factory=set)  # variables of storage
    tuples: dict[relax.Var, list[Expr]] = field(default_factory=dict)  # that hold a part of the arena
    near: dict[relax.Var, set[int]] = field(default_factory=dict)  # buffers that may hold a value
    where: dict[relax.Var, int] = field(default_factory=dict)  # the buffer that holds a parameter

    def add(self, var: relax.Var, buffer: int) -> None:
        """Make a parameter that replaces `var`."""
        param = relax.Var(f"m{len(self.params)}", relax.TensorType(shape_of(var), dtype_of(var)))
        self.params.append(param)
        self.buffers.append(buffer)
        self.renamed[var] = param
        self.where[param] = buffer

    def buffer_of(self, expr: Expr) -> int | None:
        """The arena's buffer that holds `expr` (of the new function)."""
        return self.where.get(expr) if isinstance(expr, relax.Var) else None

    def _is_split(self, expr: Expr) -> bool:
        return isinstance(expr, relax.Var) and expr in self.tuples

    def binding(self, at: int, binding: relax.VarBinding) -> relax.VarBinding | None:
        """The binding in the new function; None when a parameter replaces it."""
        var, value = binding.var, binding.value
        name = op_name(value)
        if name == "memory.alloc_storage":
            self.planned.add(var)
        if name in _DROPPED:
            return None
        if name == "memory.alloc_tensor" and value.args[0] in self.planned:
            self.lives.append(_Life(_bytes(var), at, at))
            self.add(var, len(self.lives) - 1)
            return None
        if isinstance(value, TupleGetItem) and self._is_split(value.tuple_value):
            self.renamed[var] = self.tuples[value.tuple_value][value.index]
            return None
        value = map_leaves(value, lambda leaf: self.use(leaf, at))
        if isinstance(value, Tuple) and any(self.buffer_of(part) is not None for part in value.fields):
            self.tuples[var] = list(value.fields)  # the results of a kernel that has several
            return None
        if name == "reshape" or isinstance(value, relax.Var):
            source = value if isinstance(value, relax.Var) else value.args[0]
            buffer = self.buffer_of(source)
            if buffer is not None:
                if name == "reshape":
                    self.add(var, buffer)
                else:
                    self.renamed[var] = source
                return None
        read = {b for leaf in leaves(value) if (b := self.buffer_of(leaf)) is not None}
        if read:
            self.near[var] = read  # a call may return its argument
        return relax.VarBinding(var, value)

    def use(self, leaf: Expr, at: int) -> Expr:
        """The replacement of a variable or constant that the binding `at` reads."""
        if self._is_split(leaf):
            for part in self.tuples[leaf]:
                self.use(part, at)
            return relax.Tuple(self.tuples[leaf])
        made = self.renamed.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf
        buffer = self.buffer_of(made)
        near = self.near.get(made, set()) if isinstance(made, relax.Var) else set()
        for number in near if buffer is None else {buffer}:
            self.lives[number].last = at
        return made


def _bytes(var: relax.Var) -> int:
    bits = int(tvm.DataType(dtype_of(var)).bits)
    return max(1, math.prod(shape_of(var)) * max(8, bits) // 8)


def _pack(lives: Sequence[_Life]) -> tuple[list[int], int]:
    """Offsets, and the arena's size: the largest buffers first, each at the lowest place that is free all its life."""
    offsets = [0] * len(lives)
    placed: list[int] = []
    total = 0
    for k in sorted(range(len(lives)), key=lambda i: (-lives[i].size, i)):
        own = lives[k]
        others = [i for i in placed if lives[i].first <= own.last and own.first <= lives[i].last]
        at = 0
        for i in sorted(others, key=lambda i: offsets[i]):
            if at + own.size <= offsets[i]:
                break
            at = max(at, _round(offsets[i] + lives[i].size))
        offsets[k] = at
        placed.append(k)
        total = max(total, at + own.size)
    return offsets, _round(total)


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(mod: tvm.IRModule, entry: str = "main") -> tuple[tvm.IRModule, Plan]:
    """Add the entry (see the module's docstring); `entry` itself stays as it is."""
    function = mod[entry]
    walk = _Rewrite()
    blocks, at = [], 0
    for block in function.body.blocks:
        kept = []
        for binding in block.bindings:
            made = walk.binding(at, binding)
            kept += [made] if made is not None else []
            at += 1
        blocks.append(type(block)(kept))
    result = map_leaves(function.body.body, lambda leaf: walk.use(leaf, at))
    if any(walk.buffer_of(leaf) is not None for leaf in leaves(result)):
        raise RuntimeError("the memory plan would return a tensor that the next call overwrites")
    offsets, size = _pack(walk.lives)
    places = [
        Place(offsets[buffer], shape_of(param), dtype_of(param))
        for param, buffer in zip(walk.params, walk.buffers, strict=True)
    ]
    name = f"{entry}_planned"
    made = relax.Function(
        [*function.params, *walk.params],
        relax.SeqExpr(blocks, result),
        function.ret_ty,
        function.is_pure,
        function.attrs,
    ).with_attr("global_symbol", name)
    functions = {**dict(mod.functions.items()), GlobalVar(name): relax.utils.copy_with_new_vars(made)}
    return tvm.IRModule(functions, attrs=mod.attrs), Plan(name, size, tuple(places))

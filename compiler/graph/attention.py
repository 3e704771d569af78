"""Find attention: a product, its softmax and a second product become one kernel that needs no transposes.

Requires: `simplify` ran.
Ensures: where `softmax(scale · q · kᵀ + mask) · v` is the only reader of its own intermediate values, it is one call
of `edgec.compiler.graph.attention_compute.attention`; transposes, slices, splits and squeezed or new axes of extent 1
before q, k and v, and a transpose after it, become part of how that kernel addresses memory. Zeros for queries that see
no key, as the operator `Attention` of the standard asks for them, are the kernel's own, where `choices` allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph import unseen_rows
from edgec.compiler.graph.attention_bands import band_of
from edgec.compiler.graph.attention_compute import attention
from edgec.compiler.graph.attention_spec import FIXED, AttentionSpec, AttentionTypes, View
from edgec.compiler.graph.rewrite import (
    Expr,
    Walker,
    array_of,
    constant,
    dtype_of,
    is_tensor,
    leaves,
    op_name,
    shape_of,
)
from edgec.compiler.graph.sources import merged_name
from edgec.compiler.graph.views import Operand, Views, scalar_product

LEAST_COLS = 4  # narrower values fill no vector


def fuse_attention(
    mod: tvm.IRModule,
    lanes: int,
    fits: Callable[[AttentionSpec], bool] = lambda _: True,
    *,
    choices: bool = False,
) -> tvm.IRModule:
    """Apply the pass (see the module's docstring).

    Args:
        mod: the module.
        lanes: queries that kernels take at a time.
        fits: whether a kernel computes an attention; others stay as they are.
        choices: kernels take masks of truth values (`where(mask, scores, number)`), too, give zeros where a query
            sees no key, if the model does, and do not visit keys that the masks hide at compile time.
    """
    return _Fuse(mod, lanes, fits, choices=choices).run()


@dataclass
class _Found:
    """The parts of an attention."""

    query: Expr  # [*batch, rows, inner]
    key: Expr  # [*batch, inner, keys]
    value: Expr  # [*batch, keys, cols]
    scale: float = 1.0
    masks: list[Expr] = field(default_factory=list)
    chosen: Expr | None = None  # truth values: which scores count
    fill: float = 0.0  # the others
    unseen: Expr | None = None  # truth values: queries that see no key, whose weights are zeros
    inside: list[relax.Var] = field(default_factory=list)  # variables that become dead


class _Fuse(Walker):
    def __init__(
        self, mod: tvm.IRModule, lanes: int, fits: Callable[[AttentionSpec], bool], *, choices: bool
    ) -> None:
        super().__init__(mod)
        self.lanes, self.fits, self.choices = lanes, fits, choices
        self.values: dict[relax.Var, Expr] = {}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        self.transposed: dict[relax.Var, Expr] = {}  # transposes that became part of an attention
        self.masks: dict[tuple[Expr, ...], Expr] = {}  # masks as kernels read them: layers share them

    def begin(self, function: relax.Function) -> None:
        """Record the readers of each variable."""
        for block in function.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = binding.value
                for leaf in leaves(binding.value):
                    if isinstance(leaf, relax.Var):
                        self.users.setdefault(leaf, []).append(binding.var)

    def resolve(self, value: Expr) -> Expr:
        """`value` as it is: the pattern is looked for in the old function."""
        return value

    def finish(self, result: Expr) -> Expr:
        """The result in its final form."""
        return super().resolve(result)

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        if var in self.transposed:
            self.renamed[var] = self.transposed[var]
            return
        found = self._attention(value)
        if found is not None and self._fuse(var, found):
            return
        super().bind(var, super().resolve(value))

    def _attention(self, value: Expr) -> _Found | None:
        """The attention whose result is `value`, if it is one."""
        weights = self._alone(value.args[0]) if op_name(value) == "matmul" and _is_float(value) else None
        inside, unseen = [value.args[0]] if weights is not None else [], None
        if self.choices and weights is not None and op_name(weights) == "where" and _is_zero(weights.args[1]):
            unseen, _, behind = weights.args
            inside.append(behind)
            weights = self._alone(behind) if shape_of(behind) == shape_of(weights) else None
        if weights is None or op_name(weights) != "nn.softmax":
            return None
        rank = len(shape_of(weights))
        if rank < 3 or int(weights.attrs.axis) % rank != rank - 1 or len(shape_of(value.args[1])) != rank:
            return None
        found = _Found(value.args[1], value.args[1], value.args[1], inside=inside, unseen=unseen)
        scores = weights.args[0]
        while True:
            call = self._alone(scores)
            if call is None or shape_of(call) != shape_of(weights):
                return None
            found.inside.append(scores)
            if op_name(call) == "matmul":
                found.query, found.key = call.args
                whole = _is_float(call) and _same_batch(found) and self._zeros_are_unseen(found)
                return found if whole else None
            inner = self._scaled(call, found)
            inner = self._masked(call, found) if inner is None else inner
            inner = self._chosen(call, found) if inner is None else inner
            if inner is None:
                return None
            scores = inner

    def _zeros_are_unseen(self, found: _Found) -> bool:
        """Whether weights are replaced by zeros in no other rows than those that see no key."""
        if found.unseen is None or unseen_rows.never(found.unseen):
            found.unseen = None
            return True
        if len(found.masks) != 1:
            return False
        return unseen_rows.found_in(found.unseen, found.masks[0], self.values, self.mod)

    def _alone(self, expr: Expr) -> Call | None:
        """The call that makes `expr`, if nothing else reads its result."""
        if isinstance(expr, relax.Var) and self.uses.get(expr, 0) == 1:
            value = self.values.get(expr)
            return value if isinstance(value, Call) and is_tensor(value) else None
        return None

    def _scaled(self, call: Call, found: _Found) -> Expr | None:
        """The operand that `call` multiplies by a number; the number is recorded in `found`."""
        scale = scalar_product(call)
        if scale is None:
            return None
        found.scale *= scale[1]
        return scale[0]

    def _masked(self, call: Call, found: _Found) -> Expr | None:
        """The operand that `call` adds a mask to; the mask is recorded in `found`.

        A mask that is scaled together with the products is not recognised.
        """
        if op_name(call) != "add" or found.scale != 1.0 or found.chosen is not None:
            return None
        for scores, mask in ((0, 1), (1, 0)):
            if isinstance(call.args[scores], relax.Var) and self._leads_to_product(
                call.args[scores], shape_of(call)
            ):
                if not _is_zero(call.args[mask]):
                    found.masks.append(call.args[mask])
                return call.args[scores]
        return None

    def _chosen(self, call: Call, found: _Found) -> Expr | None:
        """The operand from which `call` takes the scores that count; truth values and the others' score are recorded.

        Nothing may have been done to the scores before that depends on them.
        """
        if not self.choices or op_name(call) != "where" or found.scale != 1.0 or found.masks or found.chosen:
            return None
        condition, scores, other = call.args
        number = array_of(other)
        if number is None or number.size != 1 or dtype_of(condition) != "bool":
            return None
        if not self._leads_to_product(scores, shape_of(call)):
            return None
        found.chosen, found.fill = condition, float(number.reshape(()))
        return scores

    def _leads_to_product(self, expr: Expr, shape: tuple[int, ...]) -> bool:
        """Whether `expr` is a product of two tensors, apart from scales and masks."""
        call = self._alone(expr)
        if call is None or shape_of(call) != shape:
            return False
        if op_name(call) == "matmul":
            return True
        scale = scalar_product(call)
        if scale is not None:
            return self._leads_to_product(scale[0], shape)
        return op_name(call) == "add" and any(self._leads_to_product(arg, shape) for arg in call.args)

    def _fuse(self, var: relax.Var, found: _Found) -> bool:
        """Emit the kernel for the attention that `var` is bound to; False where no kernel computes it."""
        *batch, rows, inner = shape_of(found.query)
        keys, cols = shape_of(found.value)[-2:]
        rank = len(batch) + 2
        if rows < self.lanes or cols < LEAST_COLS:
            return False
        views = Views(self.values, self.transposed)
        query, first = views.scaled(found.query)
        key, second = views.scaled(found.key)
        value = views.lying_along(found.value, rank - 1)
        swapped = {rank - 2: rank - 1, rank - 1: rank - 2}
        key.view = replace(key.view, axes=tuple(swapped.get(axis, axis) for axis in key.view.axes))
        user, order = self._transpose_behind(var, rank)
        kept = self.name
        names = [*(str(v.name) for v in reversed(found.inside)), self.name]
        self.name = merged_name(names if user is None else [*names, str(user.name)])
        mask = self._mask(found.masks if found.chosen is None else [found.chosen], rank)
        spec = AttentionSpec(
            tuple(batch), rows, keys, inner, cols, found.scale * first * second,
            query.view, key.view, value.view, mask.view if mask else None, order, self.lanes,
        )  # fmt: skip
        if not self.fits(spec):
            self.name = kept
            return False
        types = AttentionTypes() if found.chosen is None else AttentionTypes(mask="bool", fill=found.fill)
        band = None
        if self.choices:
            band = band_of(found.masks, found.chosen, found.fill, (rows, keys), self.values)
        types = replace(types, zeros=found.unseen is not None, band=band)
        operands = [query, key, value, *([mask] if mask else [])]
        out = self._call(spec, types, [super(_Fuse, self).resolve(operand.source) for operand in operands])
        self.renamed[var] = out
        if user is not None:
            self.transposed[user] = out
        return True

    def _call(self, spec: AttentionSpec, types: AttentionTypes, args: list[Expr]) -> Expr:
        gv = self.builder.add_func(attention(spec, types), "attention")
        return self.emit(relax.call_tir(gv, args, out_ty=relax.TensorType(list(spec.out_shape), spec.dtype)))

    def _transpose_behind(self, var: relax.Var, rank: int) -> tuple[relax.Var | None, tuple[int, ...]]:
        """The transpose that alone reads `var`, and its order."""
        users = self.users.get(var, [])
        if len(users) == 1 and self.uses.get(var, 0) == 1:
            value = self.values[users[0]]
            if op_name(value) == "permute_dims" and value.attrs.axes is not None:
                return users[0], tuple(int(axis) for axis in value.attrs.axes)
        return None, tuple(range(rank))

    def _mask(self, masks: Sequence[Expr], rank: int) -> Operand | None:
        """What is added to the scaled products, as a view; a mask that differs from query to query lies transposed,
        so that the queries of a key are neighbours.
        """
        if not masks:
            return None
        key = tuple(masks)
        total = self.masks.get(key)
        if total is None:
            total = self.masks[key] = self._laid(masks, rank)
        here = shape_of(total)
        logical = [*range(rank - 2), rank - 1, rank - 2]
        axes = tuple(FIXED if extent == 1 else axis for axis, extent in zip(logical, here, strict=True))
        return Operand(total, View(here, axes, (0,) * len(here)))

    def _laid(self, masks: Sequence[Expr], rank: int) -> Expr:
        """The sum of some masks with its last two axes, queries and keys, in turn."""
        parts = [super(_Fuse, self).resolve(mask) for mask in masks]
        total = parts[0]
        for part in parts[1:]:
            total = self.emit(relax.op.add(total, part))
        dims = (1,) * (rank - len(shape_of(total))) + shape_of(total)
        array = array_of(total)
        if array is not None:
            return constant(np.ascontiguousarray(array.reshape(dims).swapaxes(-1, -2)))
        if dims[-2] == 1:  # of one query, or the same for all: to swap the axes is to rename them
            return self.emit(relax.op.reshape(total, (*dims[:-2], dims[-1], 1)))
        total = self.emit(relax.op.reshape(total, dims)) if dims != shape_of(total) else total
        return self.emit(relax.op.permute_dims(total, [*range(rank - 2), rank - 1, rank - 2]))


def _is_float(call: Expr) -> bool:
    return is_tensor(call) and dtype_of(call) == "float32" and all(is_tensor(arg) for arg in call.args)


def _same_batch(found: _Found) -> bool:
    """Whether all three operands have the same leading axes."""
    query, key, value = (shape_of(part) for part in (found.query, found.key, found.value))
    return len(query) == len(key) == len(value) and query[:-2] == key[:-2] == value[:-2]


def _is_zero(expr: Expr) -> bool:
    array = array_of(expr)
    return array is not None and not array.any()

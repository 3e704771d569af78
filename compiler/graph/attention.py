"""Find attention: a product, its softmax and a second product become one kernel, without the transposes around them.

Requires: `simplify` ran.
Ensures: where ``softmax(scale · q · kᵀ + mask) · v`` is read as a whole and by nobody else in parts, one call of
`edgec.compiler.kernels.compute.attention` stands; what lies before q, k and v (transposes, slices, splits, lost or new
axes of extent 1) and a transpose behind it are part of how that kernel addresses memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, TupleGetItem

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
from edgec.compiler.kernels import compute
from edgec.compiler.kernels.attention import lanes_for
from edgec.compiler.kernels.attention_spec import FIXED, AttentionSpec, View
from edgec.targets.target import Target

LEAST_COLS = 4  # narrower values fill no vector


def fuse_attention(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Fuse(mod, target).run()


@dataclass
class _Operand:
    """A tensor and how an operand lies in it."""

    source: Expr
    view: View


@dataclass
class _Found:
    """The parts of an attention."""

    query: Expr  # [*batch, rows, inner]
    key: Expr  # [*batch, inner, keys]
    value: Expr  # [*batch, keys, cols]
    scale: float = 1.0
    masks: list[Expr] = field(default_factory=list)
    inside: list[relax.Var] = field(default_factory=list)  # the variables that nobody needs any more


class _Fuse(Walker):
    def __init__(self, mod: tvm.IRModule, target: Target, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.lanes = target.fp32_lanes
        self.values: dict[relax.Var, Expr] = {}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        self.transposed: dict[relax.Var, Expr] = {}  # transposes that an attention did on the way

    def begin(self, function: relax.Function) -> None:
        """Learn who reads what."""
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
        if weights is None or op_name(weights) != "nn.softmax":
            return None
        rank = len(shape_of(weights))
        if rank < 3 or int(weights.attrs.axis) % rank != rank - 1 or len(shape_of(value.args[1])) != rank:
            return None
        found = _Found(value.args[1], value.args[1], value.args[1], inside=[value.args[0]])
        scores = weights.args[0]
        while True:
            call = self._alone(scores)
            if call is None or shape_of(call) != shape_of(weights):
                return None
            found.inside.append(scores)
            if op_name(call) == "matmul":
                found.query, found.key = call.args
                return found if _is_float(call) and _same_batch(found) else None
            inner = self._scaled(call, found)
            inner = self._masked(call, found) if inner is None else inner
            if inner is None:
                return None
            scores = inner

    def _alone(self, expr: Expr) -> Call | None:
        """The call that makes `expr`, if nothing else reads its result."""
        if isinstance(expr, relax.Var) and self.uses.get(expr, 0) == 1:
            value = self.values.get(expr)
            return value if isinstance(value, Call) and is_tensor(value) else None
        return None

    def _scaled(self, call: Call, found: _Found) -> Expr | None:
        """What `call` multiplies by a number, which goes into `found`."""
        scale = _scalar(call)
        if scale is None:
            return None
        found.scale *= scale[1]
        return scale[0]

    def _masked(self, call: Call, found: _Found) -> Expr | None:
        """What `call` adds a mask to; the mask goes into `found`.

        One that is scaled with the products would need the same scale: that is not looked for.
        """
        if op_name(call) != "add" or found.scale != 1.0:
            return None
        for scores, mask in ((0, 1), (1, 0)):
            if isinstance(call.args[scores], relax.Var) and self._leads_to_product(
                call.args[scores], shape_of(call)
            ):
                found.masks.append(call.args[mask])
                return call.args[scores]
        return None

    def _leads_to_product(self, expr: Expr, shape: tuple[int, ...]) -> bool:
        """Whether `expr` is a product of two tensors, but for numbers and masks."""
        call = self._alone(expr)
        if call is None or shape_of(call) != shape:
            return False
        if op_name(call) == "matmul":
            return True
        scale = _scalar(call)
        if scale is not None:
            return self._leads_to_product(scale[0], shape)
        return op_name(call) == "add" and any(self._leads_to_product(arg, shape) for arg in call.args)

    def _operand(self, expr: Expr, along: int | None = None) -> tuple[_Operand, float]:
        """The tensor in which `expr` lies, and the number that it is multiplied by.

        With `along`, a logical axis, only as far back as its elements lie side by side; no number then.
        """
        here = best = _Operand(expr, View.of(shape_of(expr)))
        scale = 1.0
        while isinstance(here.source, relax.Var):
            value = self.values.get(here.source)
            number = (
                _scalar(value) if along is None and isinstance(value, Call) and is_tensor(value) else None
            )
            if number is not None:
                scale *= number[1]
                here = _Operand(number[0], here.view)
            else:
                step = self._behind(value, here.view)
                if step is None:
                    break
                here = step
            if along is None or here.view.runs_along(along):
                best = here
        return best, scale

    def _behind(self, value: Expr | None, view: View) -> _Operand | None:
        """A view of `value` as a view of the tensor that it is taken from."""
        if isinstance(value, TupleGetItem):
            return self._part(value, view)
        name = op_name(value) if isinstance(value, Call) and is_tensor(value) else ""
        if name not in ("permute_dims", "strided_slice", "squeeze", "expand_dims", "reshape"):
            return None
        assert isinstance(value, Call)
        source = value.args[0]
        shape = shape_of(source)
        if name == "permute_dims":
            rank = len(shape)
            order = (
                list(reversed(range(rank)))
                if value.attrs.axes is None
                else [int(a) for a in value.attrs.axes]
            )
            back = [order.index(axis) for axis in range(rank)]
            axes, offsets = ([values[i] for i in back] for values in (view.axes, view.offsets))
            return _Operand(source, View(shape, tuple(axes), tuple(offsets)))
        if name == "strided_slice":
            return _sliced(value, view)
        return _reshaped(source, view)

    def _part(self, value: TupleGetItem, view: View) -> _Operand | None:
        """One part of a split."""
        whole = value.tuple_value
        call = self.values.get(whole) if isinstance(whole, relax.Var) else whole
        if call is None or op_name(call) != "split":
            return None
        source, axis = call.args[0], int(call.attrs.axis)
        shape = shape_of(source)
        axis %= len(shape)
        sections = call.attrs.indices_or_sections
        if hasattr(sections, "__len__"):
            start = [0, *(int(s) for s in sections)][value.index]
        else:
            start = value.index * -(-shape[axis] // int(sections))
        return _Operand(source, _shifted(view, shape, axis, start))

    def _fuse(self, var: relax.Var, found: _Found) -> bool:
        """Emit the kernel for the attention that `var` is bound to; False where no kernel computes it."""
        *batch, rows, inner = shape_of(found.query)
        keys, cols = shape_of(found.value)[-2:]
        lanes, rank = lanes_for(rows, self.lanes), len(batch) + 2
        if not lanes or cols < LEAST_COLS:
            return False
        query, first = self._operand(found.query)
        key, second = self._operand(found.key)
        value, _ = self._operand(found.value, along=rank - 1)
        swapped = {rank - 2: rank - 1, rank - 1: rank - 2}
        key.view = replace(key.view, axes=tuple(swapped.get(axis, axis) for axis in key.view.axes))
        user, order = self._transpose_behind(var, rank)
        if user is not None:
            found.inside.append(user)
        self.name = merged_name([*(str(v.name) for v in reversed(found.inside)), self.name])
        mask = self._mask(found, (*batch, rows, keys))
        spec = AttentionSpec(
            tuple(batch), rows, keys, inner, cols, found.scale * first * second,
            query.view, key.view, value.view, mask.view if mask else None, order, lanes,
        )  # fmt: skip
        operands = [query, key, value, *([mask] if mask else [])]
        out = self._call(spec, [super(_Fuse, self).resolve(operand.source) for operand in operands])
        self.renamed[var] = out
        if user is not None:
            self.transposed[user] = out
        return True

    def _call(self, spec: AttentionSpec, args: list[Expr]) -> Expr:
        gv = self.builder.add_func(compute.attention(spec), "attention")
        return self.emit(relax.call_tir(gv, args, out_ty=relax.TensorType(list(spec.out_shape), spec.dtype)))

    def _transpose_behind(self, var: relax.Var, rank: int) -> tuple[relax.Var | None, tuple[int, ...]]:
        """The transpose that alone reads `var`, and its order."""
        users = self.users.get(var, [])
        if len(users) == 1 and self.uses.get(var, 0) == 1:
            value = self.values[users[0]]
            if op_name(value) == "permute_dims" and value.attrs.axes is not None:
                return users[0], tuple(int(axis) for axis in value.attrs.axes)
        return None, tuple(range(rank))

    def _mask(self, found: _Found, shape: tuple[int, ...]) -> _Operand | None:
        """What is added to the scaled products, as a view; a mask that differs from query to query lies transposed,
        so that the queries of a key are neighbours.
        """
        if not found.masks:
            return None
        parts = [super(_Fuse, self).resolve(mask) for mask in found.masks]
        total = parts[0]
        for part in parts[1:]:
            total = self.emit(relax.op.add(total, part))
        dims = (1,) * (len(shape) - len(shape_of(total))) + shape_of(total)
        if dims != shape_of(total):
            array = array_of(total)
            total = (
                self.emit(relax.op.reshape(total, dims)) if array is None else constant(array.reshape(dims))
            )
        logical = list(range(len(shape)))
        if dims[-2] > 1:
            logical[-2:] = reversed(logical[-2:])
            array = array_of(total)
            if array is None:
                total = self.emit(relax.op.permute_dims(total, logical))
            else:
                total = constant(np.ascontiguousarray(array.transpose(logical)))
        here = shape_of(total)
        axes = tuple(FIXED if extent == 1 else axis for axis, extent in zip(logical, here, strict=True))
        return _Operand(total, View(here, axes, (0,) * len(here)))


def _is_float(call: Expr) -> bool:
    return is_tensor(call) and dtype_of(call) == "float32" and all(is_tensor(arg) for arg in call.args)


def _same_batch(found: _Found) -> bool:
    """Whether all three operands have the same leading axes."""
    query, key, value = (shape_of(part) for part in (found.query, found.key, found.value))
    return len(query) == len(key) == len(value) and query[:-2] == key[:-2] == value[:-2]


def _scalar(call: Expr) -> tuple[Expr, float] | None:
    """A tensor and the number that `call` multiplies it by; None for any other call."""
    name = op_name(call)
    if name not in ("multiply", "divide"):
        return None
    for side in (0, 1) if name == "multiply" else (0,):
        number = array_of(call.args[1 - side])
        if number is not None and number.size == 1 and shape_of(call.args[side]) == shape_of(call):
            factor = float(number.reshape(()))
            if name == "divide" and factor == 0.0:
                return None
            return call.args[side], 1.0 / factor if name == "divide" else factor
    return None


def _shifted(view: View, shape: tuple[int, ...], axis: int, start: int) -> View:
    offsets = list(view.offsets)
    offsets[axis] += start
    return View(shape, view.axes, tuple(offsets))


def _sliced(call: Call, view: View) -> _Operand | None:
    """A view of a slice without strides as one of what it is cut from."""
    if len(call.args) < 4:
        return None
    axes, begins = (_numbers(arg) for arg in call.args[1:3])
    strides = _numbers(call.args[4]) if len(call.args) > 4 else [1] * len(axes or [])
    if axes is None or begins is None or strides is None or any(stride != 1 for stride in strides):
        return None
    shape = shape_of(call.args[0])
    for axis, begin in zip(axes, begins, strict=True):
        extent = shape[axis]
        view = _shifted(
            view, shape, axis % len(shape), min(max(begin + extent if begin < 0 else begin, 0), extent)
        )
    return _Operand(call.args[0], replace(view, shape=shape))


def _numbers(tuple_of: Expr) -> list[int] | None:
    """The numbers in a tuple; None where one is computed."""
    values = [getattr(item, "value", None) for item in tuple_of.fields]
    return None if None in values else [int(value) for value in values if value is not None]


def _reshaped(source: Expr, view: View) -> _Operand | None:
    """A view through a reshape that only adds or takes axes of extent 1."""
    shape = shape_of(source)
    kept = [(extent, axis, at) for extent, axis, at in zip(view.shape, view.axes, view.offsets, strict=True)]
    longer = [item for item in kept if item[0] != 1]
    if [item[0] for item in longer] != [extent for extent in shape if extent != 1]:
        return None
    rest = iter(longer)
    axes, offsets = [], []
    for extent in shape:
        _, axis, at = next(rest) if extent != 1 else (1, FIXED, 0)
        axes.append(axis)
        offsets.append(at)
    return _Operand(source, View(shape, tuple(axes), tuple(offsets)))

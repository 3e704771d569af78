"""Trace a tensor back through transposes, slices, splits and axes of extent 1 to its place in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from tvm import relax
from tvm.ir import Call, TupleGetItem

from edgec.compiler.graph.attention_spec import FIXED, View
from edgec.compiler.graph.rewrite import Expr, array_of, is_tensor, op_name, shape_of


@dataclass
class Operand:
    """A tensor and an operand's view of it."""

    source: Expr
    view: View


@dataclass(frozen=True)
class Views:
    """Views over the variables of a function.

    Attributes:
        values: what each variable is bound to.
        opaque: variables that are not traced further, because they were already rewritten to another form.
    """

    values: Mapping[relax.Var, Expr]
    opaque: Collection[relax.Var]

    def scaled(self, expr: Expr) -> tuple[Operand, float]:
        """The tensor that holds `expr`, and the factor by which it is scaled on the way."""
        here, scale = Operand(expr, View.of(shape_of(expr))), 1.0
        while (value := self._value(here.source)) is not None:
            number = scalar_product(value)
            if number is not None:
                scale *= number[1]
                here = Operand(number[0], here.view)
                continue
            step = self._behind(value, here.view)
            if step is None:
                break
            here = step
        return here, scale

    def lying_along(self, expr: Expr, axis: int) -> Operand:
        """The tensor that holds `expr`, traced back while neighbours along `axis` stay neighbours in memory."""
        here = best = Operand(expr, View.of(shape_of(expr)))
        while (value := self._value(here.source)) is not None:
            step = self._behind(value, here.view)
            if step is None:
                break
            here = step
            if here.view.runs_along(axis):
                best = here
        return best

    def _value(self, source: Expr) -> Expr | None:
        if not isinstance(source, relax.Var) or source in self.opaque:
            return None
        return self.values.get(source)

    def _behind(self, value: Expr, view: View) -> Operand | None:
        """A view of `value` as a view of the tensor that it is taken from."""
        if isinstance(value, TupleGetItem):
            return self._part(value, view)
        if not isinstance(value, Call) or not is_tensor(value):
            return None
        step: Callable[[Call, View], Operand | None] | None = _STEPS.get(op_name(value))
        return step(value, view) if step else None

    def _part(self, value: TupleGetItem, view: View) -> Operand | None:
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
        return Operand(source, _shifted(view, shape, axis, start))


def scalar_product(call: Expr) -> tuple[Expr, float] | None:
    """A tensor and the number that `call` multiplies it by; None for anything else."""
    name = op_name(call)
    if name not in ("multiply", "divide") or not is_tensor(call):
        return None
    for side in (0, 1) if name == "multiply" else (0,):
        number = array_of(call.args[1 - side])
        if number is not None and number.size == 1 and shape_of(call.args[side]) == shape_of(call):
            factor = float(number.reshape(()))
            if name == "divide" and factor == 0.0:
                return None
            return call.args[side], 1.0 / factor if name == "divide" else factor
    return None


def _transposed(call: Call, view: View) -> Operand:
    source = call.args[0]
    shape = shape_of(source)
    rank = len(shape)
    order = (
        list(reversed(range(rank))) if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
    )
    back = [order.index(axis) for axis in range(rank)]
    axes, offsets = (tuple(values[i] for i in back) for values in (view.axes, view.offsets))
    return Operand(source, View(shape, axes, offsets))


def _shifted(view: View, shape: tuple[int, ...], axis: int, start: int) -> View:
    offsets = list(view.offsets)
    offsets[axis] += start
    return View(shape, view.axes, tuple(offsets))


def _sliced(call: Call, view: View) -> Operand | None:
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
    return Operand(call.args[0], replace(view, shape=shape))


def _numbers(tuple_of: Expr) -> list[int] | None:
    """The numbers in a tuple; None where one is computed."""
    values = [getattr(item, "value", None) for item in tuple_of.fields]
    return None if None in values else [int(value) for value in values if value is not None]


def _reshaped(call: Call, view: View) -> Operand | None:
    """A view through a reshape that only adds or takes axes of extent 1."""
    source = call.args[0]
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
    return Operand(source, View(shape, tuple(axes), tuple(offsets)))


_STEPS: dict[str, Callable[[Call, View], Operand | None]] = {
    "permute_dims": _transposed,
    "strided_slice": _sliced,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "reshape": _reshaped,
}

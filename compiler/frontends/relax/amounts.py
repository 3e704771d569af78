"""Small integers that decide shapes: constants, sizes of tensors and arithmetic on them, or values of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tvm
from onnx import helper
from tvm import relax, te, tirx

from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    dtype_of,
    is_constant,
    reshaped,
    value_of,
)
from edgec.compiler.frontends.relax.dims import (
    Dim,
    bound,
    dims_of,
    fresh,
    is_static,
    product,
    size,
    variables,
)
from edgec.compiler.frontends.relax.lists import NO_TENSOR

Objects: TypeAlias = npt.NDArray[Any]  # of sizes
MOST = 64  # values of one tensor that are followed as symbols


def amounts(node: Node, position: int) -> list[Dim] | None:
    """The integers that an input holds, in order; None where it is left out.

    Values that are computed when the model runs become new variables.

    Raises:
        CannotConvert: their number is not known.
    """
    if not node.has(position):
        return None
    value = node.input(position)
    known = known_values(node, value)
    if known is not None:
        return known
    if not is_static(value) or product(dims_of(value)) > MOST:
        raise CannotConvert(f"how many values its input {position} has depends on the data")
    return read_amounts(node.builder, value)


def amounts_of(node: Node, name: str, position: int) -> list[Dim] | None:
    """Amounts that are an attribute in older operator sets and an input in newer ones."""
    if name in node.attrs:
        return [int(x) for x in node.attrs[name]]
    return amounts(node, position)


def known_values(node: Node, value: Expr) -> list[Dim] | None:
    """The integers of a value that is constant or follows from shapes; None for any other."""
    if is_constant(value):
        return [int(x) for x in value_of(value).reshape(-1)]
    known: list[Dim] | None = node.scope.importer.known.get(value)
    return known


def read_amounts(builder: SourceBuilder, value: Expr) -> list[Dim]:
    """New variables for the integers of a static tensor, read when the model runs."""
    count = product(dims_of(value))
    if count == 0:
        return []
    wide = value if dtype_of(value) == "int64" else builder.emit(relax.op.astype(value, "int64"))
    flat = wide if len(dims_of(wide)) == 1 else builder.emit(reshaped(wide, [count]))
    # not relax's operator, which TVM expands with a second set of names
    read = relax.op.call_pure_packed("vm.builtin.tensor_to_shape", flat, ty_args=relax.ShapeType(ndim=count))
    shape = builder.emit(read)
    found = [fresh(f"a{i}") for i in range(count)]
    builder.match_cast(shape, relax.ShapeType(found), builder.prefix)
    return found


def as_tensor(node: Node, values: Sequence[Dim], shape: Sequence[int], dtype: str = "int64") -> Expr:
    """A tensor of integers that follow from shapes, and are remembered as such."""
    values = [size(value) for value in values]
    if all(isinstance(value, int) for value in values):
        return constant([int(v) for v in values], dtype) if list(shape) else constant(int(values[0]), dtype)

    # symbolic sizes are arguments, so that the kernel gets them
    def definition(sizes: Sequence[Dim]) -> te.Tensor:
        own = [
            tirx.const(int(v), dtype) if isinstance(v, int | tirx.IntImm) else tirx.Cast(dtype, v)
            for v in sizes
        ]

        def fill(*at: Expr) -> Expr:
            place = at[0] if at else tirx.IntImm("int64", 0)
            chosen = own[-1]
            for number in range(len(own) - 2, -1, -1):
                chosen = tirx.Select(place == number, own[number], chosen)
            return chosen

        return te.compute(tuple(shape), fill, name="sizes")

    made = node.builder.emit_te(
        definition, [bound(node.builder, v) for v in values], primfunc_name_hint="sizes"
    )
    node.scope.importer.known[made] = values
    return made


def shape_arithmetic(node: Node) -> Expr | None:
    """The result of arithmetic on integers that follow from shapes; None for any other node."""
    if node.op_type not in ARITHMETIC or node.domain:
        return None
    values = [x for x in node.inputs if x is not None]
    if not values or not any(x in node.scope.importer.known for x in values if not is_constant_or_list(x)):
        return None
    arrays = []
    for value in values:
        if isinstance(value, NO_TENSOR) or not is_static(value):
            return None
        known = known_values(node, value)
        if known is None or not dtype_of(value).startswith("int"):
            return None
        arrays.append(np.array(known, object).reshape([int(d) for d in dims_of(value)]))
    try:
        made = np.asarray(ARITHMETIC[node.op_type](node, arrays), object)
    except (CannotConvert, IndexError, ValueError):
        return None  # left to the converters, which name the reason
    if made.size > MOST:
        return None
    kind = _kind(node)
    return as_tensor(node, list(made.reshape(-1)), made.shape, kind)


def is_constant_or_list(value: Expr) -> bool:
    """Whether a value is no variable."""
    return isinstance(value, NO_TENSOR) or is_constant(value)


def _kind(node: Node) -> str:
    if node.op_type == "Cast":
        return str(helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))
    return node.dtype(0)


def _gather(node: Node, arrays: list[Objects]) -> Objects:
    axis = int(node.attrs.get("axis", 0))
    return np.take(arrays[0], arrays[1].astype(np.int64), axis=axis)


def _cast(node: Node, arrays: list[Objects]) -> Objects:
    if _kind(node) not in ("int64", "int32"):
        raise CannotConvert("not an integer")
    return arrays[0]


def _squeeze(node: Node, arrays: list[Objects]) -> Objects:
    axes = node.attrs.get("axes") or (arrays[1].reshape(-1).tolist() if len(arrays) > 1 else None)
    return np.squeeze(arrays[0], None if axes is None else tuple(int(a) for a in axes))


def _unsqueeze(node: Node, arrays: list[Objects]) -> Objects:
    axes = node.attrs.get("axes") or arrays[1].reshape(-1).tolist()
    return np.expand_dims(arrays[0], tuple(int(a) for a in axes))


def _slice(node: Node, arrays: list[Objects]) -> Objects:
    x, starts, ends = arrays[0], arrays[1].astype(np.int64), arrays[2].astype(np.int64)
    axes = [int(a) for a in arrays[3]] if len(arrays) > 3 else range(len(starts))
    steps = [int(a) for a in arrays[4]] if len(arrays) > 4 else [1] * len(starts)
    picks = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        picks[axis] = slice(int(start), int(end), step)
    return x[tuple(picks)]


def _pairwise(function: Callable[[Dim, Dim], Dim]) -> Callable[[Node, list[Objects]], Objects]:
    def apply(_node: Node, arrays: list[Objects]) -> Objects:
        left, right = np.broadcast_arrays(*arrays)
        values = [function(a, b) for a, b in zip(left.reshape(-1), right.reshape(-1), strict=True)]
        made = np.empty(len(values), object)
        made[:] = values
        return made.reshape(left.shape)

    return apply


def _quotient(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if b else 0
    if isinstance(b, int) and b > 0 and not _may_be_negative(a):
        return tirx.floordiv(a, tirx.IntImm("int64", b))
    return tirx.truncdiv(_whole(a), _whole(b))


def _may_be_negative(value: Dim) -> bool:
    analyzer = tvm.sym.Analyzer()
    for var in variables(value):
        analyzer.bind(var, tvm.ir.Range.from_min_extent(0, 1 << 40))
    return not analyzer.can_prove(value >= 0)


def _whole(value: Dim) -> Expr:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _total(node: Node, arrays: list[Objects]) -> Objects:
    if arrays[0].ndim > 1 or (len(arrays) > 1 and arrays[1].reshape(-1).tolist() not in ([0], [-1])):
        raise CannotConvert("not a vector")
    values = arrays[0].reshape(-1).tolist()
    total = product(values) if node.op_type == "ReduceProd" else _sum(values)
    made = np.empty((1,) if node.attrs.get("keepdims", 1) else (), object)
    made[...] = total
    return made


def _sum(values: Sequence[Dim]) -> Dim:
    total: Dim = 0
    for value in values:
        total = value + total if isinstance(total, int) else total + value
    return size(total)


def _reshape(_node: Node, arrays: list[Objects]) -> Objects:
    return arrays[0].reshape([int(s) for s in arrays[1].reshape(-1)])


ARITHMETIC: dict[str, Callable[[Node, list[Objects]], Objects]] = {
    "Add": _pairwise(lambda a, b: a + b),
    "Sub": _pairwise(lambda a, b: a - b),
    "Mul": _pairwise(lambda a, b: a * b),
    "Div": _pairwise(_quotient),
    "Max": _pairwise(lambda a, b: max(a, b) if _are_numbers(a, b) else tirx.max(_whole(a), _whole(b))),
    "Min": _pairwise(lambda a, b: min(a, b) if _are_numbers(a, b) else tirx.min(_whole(a), _whole(b))),
    "Cast": _cast,
    "Concat": lambda _node, arrays: np.concatenate(arrays),
    "Gather": _gather,
    "Identity": lambda _node, arrays: arrays[0],
    "ReduceProd": _total,
    "ReduceSum": _total,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def _are_numbers(a: Dim, b: Dim) -> bool:
    return isinstance(a, int) and isinstance(b, int)

"""The largest and smallest elements along axes and their places, and the logarithm of a sum of exponentials."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import (
    LeaveToTvm,
    Node,
    axis_of,
    converts,
    dtype_of,
    scalar,
)
from edgec.compiler.kernels.extremes import extremes, place_of_extreme


@converts("ReduceMax", "ReduceMin")
def _extreme(node: Node) -> Expr:
    x, rank = node.input(0), node.rank(0)
    axes = node.ints("axes", 1)
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return x
    chosen = [a % rank for a in axes] if axes else list(range(rank))
    wide = node.emit(relax.op.astype(x, "uint8")) if dtype_of(x) == "bool" else x
    keeps, largest = bool(node.attrs.get("keepdims", 1)), node.op_type == "ReduceMax"
    if "float" in dtype_of(x) and rank:
        return node.builder.emit_te(extremes, wide, chosen, keepdims=keeps, largest=largest)
    reduce = relax.op.max if largest else relax.op.min
    result = reduce(wide, axis=chosen, keepdims=keeps) if rank else wide
    return relax.op.astype(node.emit(result), "bool") if dtype_of(x) == "bool" else result


@converts("ArgMax", "ArgMin")
def _place_of_extreme(node: Node) -> Expr:
    return node.builder.emit_te(
        place_of_extreme,
        node.input(0),
        axis_of(int(node.attrs.get("axis", 0)), len(node.shape(0))),
        keepdims=bool(node.attrs.get("keepdims", 1)),
        largest=node.op_type == "ArgMax",
        last=bool(node.attrs.get("select_last_index", 0)),
    )


@converts("ReduceLogSumExp")
def _log_sum_exp(node: Node) -> Expr:
    """Relative to the largest element, so that no exponential overflows; unless it is infinite: inf - inf is NaN."""
    x, rank = node.input(0), node.rank(0)
    axes = node.ints("axes", 1)
    if not rank or not dtype_of(x).startswith("float"):
        raise LeaveToTvm
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        return x
    chosen = [a % rank for a in axes] if axes else list(range(rank))
    top = node.builder.emit_te(extremes, x, chosen, keepdims=True, largest=True)
    shift = node.emit(relax.op.where(relax.op.isinf(top), scalar(0.0, top), top))
    powers = node.emit(relax.op.exp(relax.op.subtract(x, shift)))
    total = node.emit(relax.op.log(relax.op.sum(powers, chosen, keepdims=True)))
    result = node.emit(relax.op.add(total, shift))
    return result if node.attrs.get("keepdims", 1) else relax.op.squeeze(result, chosen)

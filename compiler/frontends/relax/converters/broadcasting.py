"""Element-wise operators on tensors whose sizes are known only at run time: brought to one shape, then as usual."""

from __future__ import annotations

from tvm import relax

from edgec.compiler.frontends.relax.builder import Expr
from edgec.compiler.frontends.relax.converters.registry import CannotConvert, Node, converts_dynamic, scalar
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import common_size, spread_to, viewed
from edgec.compiler.frontends.relax.dims import Dim, bound, cast_to, dims_of, is_same

ELEMENTWISE = (
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
    ),
    *("GreaterOrEqual", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Where", "Max", "Min"),
    *("Sum", "Mean"),
)


@converts_dynamic(*ELEMENTWISE)
def _elementwise(node: Node) -> list[Expr]:
    if node.usual is None:
        raise CannotConvert("its sizes are known only at run time")
    return node.usual(aligned(node, [x for x in node.inputs if x is not None]))


@converts_dynamic("PRelu")
def _prelu(node: Node) -> Expr:
    x, slope = node.input(0), node.input(1)
    rank, own = len(dims_of(x)), dims_of(slope)
    if rank > 2 and len(own) == 1 and not is_same(own[0], 1) and is_same(own[0], dims_of(x)[1]):
        slope = viewed(node, slope, [own[0], *[1] * (rank - 2)])
    x, slope = aligned(node, [x, slope])
    below = node.emit(relax.op.multiply(x, slope))
    return relax.op.where(relax.op.greater_equal(x, scalar(0, x)), x, below)


def aligned(node: Node, tensors: list[Expr]) -> list[Expr]:
    """The tensors, with sizes of which it is known how they are broadcast."""
    rank = max(len(dims_of(x)) for x in tensors)
    common: list[Dim] = [1] * rank
    for x in tensors:
        own = [1] * (rank - len(dims_of(x))) + dims_of(x)
        common = [bound(node.builder, common_size(node, a, b)) for a, b in zip(common, own, strict=True)]
    return [_fitting(node, x, common) for x in tensors]


def _fitting(node: Node, x: Expr, common: list[Dim]) -> Expr:
    own = dims_of(x)
    wanted = common[len(common) - len(own) :]
    known = [is_same(a, b) or (isinstance(a, int) and a == 1) for a, b in zip(own, wanted, strict=True)]
    if all(known):
        return x
    importer = node.scope.importer
    if all(k or importer.exceeds_one(a) for k, a in zip(known, own, strict=True)):
        # not 1, so equal: checked when the model runs
        return cast_to(
            node.builder,
            x,
            [a if isinstance(a, int) and a == 1 else b for a, b in zip(own, wanted, strict=True)],
        )
    return spread_to(node, x, wanted)


@converts_dynamic("Cast")
def _cast(node: Node) -> list[Expr]:
    if node.usual is None:
        raise CannotConvert("its sizes are known only at run time")
    return node.usual(list(node.inputs))


@converts_dynamic("Softmax", "LogSoftmax")
def _softmax(node: Node) -> Expr:
    if node.opset < 13:
        raise CannotConvert(
            "Softmax of operator sets below 13 is not compiled for sizes known only at run time"
        )
    axis = int(node.attrs.get("axis", -1))
    function = relax.op.nn.softmax if node.op_type == "Softmax" else relax.op.nn.log_softmax
    return function(node.input(0), axis)

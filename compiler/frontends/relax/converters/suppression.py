"""NonMaxSuppression: how many boxes it keeps is known when the model runs."""

from __future__ import annotations

import math

from tvm import relax

from edgec.compiler.frontends.relax.amounts import read_amounts
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts_dynamic,
    dtype_of,
    is_constant,
    value_of,
)
from edgec.compiler.frontends.relax.converters.selection import called
from edgec.compiler.frontends.relax.converters.sizes_at_run_time import vector
from edgec.compiler.frontends.relax.dims import dims_of, is_same
from edgec.compiler.kernels.suppression import chosen_boxes, listed_boxes

BOXES, SCORES, MOST, OVERLAP, LEAST = range(5)


@converts_dynamic("NonMaxSuppression")
def _non_max_suppression(node: Node) -> Expr:
    boxes, scores = node.input(BOXES), node.input(SCORES)
    if len(dims_of(boxes)) != 3 or len(dims_of(scores)) != 3 or dtype_of(boxes) != "float32":
        raise CannotConvert("its boxes or scores are not fp32 of three axes")
    images, classes, count = dims_of(scores)
    if not (is_same(dims_of(boxes)[0], images) and is_same(dims_of(boxes)[1], count)):
        raise CannotConvert("its boxes and scores differ in number")
    limit = vector(node, MOST) if node.has(MOST) else constant([0], "int64")
    most = count
    if is_constant(limit) and isinstance(count, int):
        most = max(1, min(count, int(value_of(limit).reshape(-1)[0])))
    symbol = node.builder.get_unique_name("chosen")
    kernel = chosen_boxes(
        symbol,
        (images, classes, count),
        most,
        centred=bool(node.attrs.get("center_point_box", 0)),
        limited=node.has(LEAST),
    )
    arguments = [boxes, scores, limit, _number(node, OVERLAP, 0.0), _number(node, LEAST, -math.inf)]
    kinds = [([images, classes, most], "int32"), ([images, classes], "int64")]
    found = node.emit(called(node, symbol, kernel, arguments, kinds))
    chosen, counts = (node.emit(relax.TupleGetItem(found, i)) for i in range(2))
    alone = is_same(images, 1) and is_same(classes, 1)  # nothing to add up: a kernel less
    sums = counts if alone else node.emit(relax.op.sum(counts, axis=[0, 1]))
    (total,) = read_amounts(node.builder, node.emit(relax.op.reshape(sums, (1,))))
    symbol = node.builder.get_unique_name("listed")
    kernel = listed_boxes(symbol, (images, classes), most, total)
    return called(node, symbol, kernel, [chosen, counts], [([total, 3], "int64")])


def _number(node: Node, position: int, default: float) -> Expr:
    """A threshold as a vector of one."""
    if not node.has(position):
        return constant([default], "float32")
    value = node.input(position)
    return value if len(dims_of(value)) == 1 else node.emit(relax.op.reshape(value, (1,)))

"""Nodes whose results are known when they are imported: of tensors without elements, and of a few constants.

The main graph's constants are folded by then. What depends on sizes shows in a sub-graph only here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.relax.builder import Array, Expr
from edgec.compiler.frontends.relax.converters.registry import is_constant, value_of
from edgec.compiler.frontends.relax.values import shape_or_none

MOST_FOLDED = 64  # elements of each constant
# Integer arithmetic starts from these, they have sub-graphs, or their results are no tensors.
KEPT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Scan", "SequenceMap"}
    | {"SplitToSequence", "SequenceConstruct", "SequenceEmpty", "Optional"}
)


def known_results(
    node: NodeProto, inputs: Sequence[Expr | None], opsets: Mapping[str, int], dtypes: Sequence[str | None]
) -> list[Array] | None:
    """The outputs of a node whose inputs are small constants, or constants but for some without elements; else None.

    Args:
        node: in the graph of the standard's operators.
        inputs: its inputs; None where one is left out.
        opsets: versions by domain.
        dtypes: element types of the inputs.
    """
    arrays: dict[str, Array] = {}
    hollow = False
    for name, value, dtype in zip(node.input, inputs, dtypes, strict=True):
        if value is None or dtype is None:
            continue
        shape = shape_or_none(value)
        if is_constant(value):
            arrays[name] = value_of(value)
        elif shape is not None and 0 in shape:
            arrays[name] = np.zeros(shape, dtype)
        else:
            return None
        hollow = hollow or arrays[name].size == 0
    small = all(array.size <= MOST_FOLDED for array in arrays.values())
    if (
        node.op_type in KEPT
        or not (hollow or small)
        or not arrays
        or len(arrays) < len([name for name in node.input if name])
    ):
        return None
    alone = helper.make_graph(
        [node], "nothing", [ValueInfoProto(name=name) for name in arrays], _wanted(node)
    )
    versions = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    try:
        return list(Standard(helper.make_model(alone, opset_imports=versions)).run(arrays).values())
    except ModelError:
        return None  # the evaluator lacks the operator or the type: left to the converter


def _wanted(node: NodeProto) -> list[ValueInfoProto]:
    return [ValueInfoProto(name=name) for name in node.output if name]

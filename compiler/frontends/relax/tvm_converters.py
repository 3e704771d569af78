"""TVM's own converters, used for operators without one here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import tvm
from onnx import AttributeProto, NodeProto
from tvm.relax.frontend.onnx import onnx_frontend

from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder
from edgec.compiler.frontends.relax.converters.registry import MICROSOFT, CannotConvert

# TVM's converters declare no errors: where they cannot convert a node, they raise any of these.
TVM_ERRORS = (
    NotImplementedError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    tvm.error.OpNotImplemented,
)
# Operators that TVM's table has under the same name in com.microsoft, with the same meaning.
TVM_MICROSOFT = frozenset(
    {"Gelu", "FastGelu", "BiasGelu", "SkipLayerNormalization", "EmbedLayerNormalization", "MatMulInteger16"}
)
# Names in TVM's table that belong to com.microsoft; the standard has other operators of the same name.
NOT_STANDARD = TVM_MICROSOFT - {"Gelu"} | {"Attention", "AllClassNMS"}
# Lists of tensors: TVM's converters for them have been seen to run for minutes.
# These call functions that only TVM's Python package has.
COMPILERS_OWN = frozenset({"AllClassNMS", "Compress", "NonMaxSuppression", "NonZero", "Unique"})
LISTS = frozenset(
    {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"}
) | {"SequenceInsert", "SequenceLength", "SplitToSequence"}


def knows(node: NodeProto) -> bool:
    """Whether TVM has a converter for a node's operator."""
    if node.op_type not in onnx_frontend._get_convert_map():
        return False
    standard = node.domain == "" and node.op_type not in NOT_STANDARD | LISTS | COMPILERS_OWN
    return standard or (node.domain == MICROSOFT and node.op_type in TVM_MICROSOFT)


def convert(
    builder: SourceBuilder,
    node: NodeProto,
    opset: int,
    inputs: Sequence[Expr | None],
    values: Mapping[str, Expr],
) -> list[Expr]:
    """The outputs of a node by TVM's converter, each bound to a variable.

    Args:
        builder: emits Relax bindings.
        node: with an operator that TVM knows.
        opset: version of the operator set of the node's domain.
        inputs: None where an optional input is left out.
        values: all values of the graph so far, by name.

    Raises:
        CannotConvert: the converter fails, or TVM cannot infer the types of what it returns.
    """
    attrs = {a.name: tvm_attribute(a) for a in node.attribute}
    attrs["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
    padded = onnx_frontend.onnx_input()
    padded.extend(inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter = onnx_frontend._get_convert_map()[node.op_type].get_converter(opset)
            result = converter(builder, padded, attrs, [values, {}])
            result = builder.normalize(result) if isinstance(result, tvm.ir.Expr) else result
        return builder.outputs(result, node.output)
    except TVM_ERRORS as error:
        raise CannotConvert(f"TVM's converter fails: {telling_line(error)}") from error


def tvm_attribute(attribute: AttributeProto) -> Any:  # noqa: ANN401 - as many types as attributes have
    """An attribute as TVM's converters expect it: text as bytes, lists as tuples."""
    value = onnx.helper.get_attribute_value(attribute)
    kinds = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS)
    return tuple(value) if attribute.type in kinds else value


def telling_line(error: BaseException) -> str:
    """The informative line of an error message: TVM's contain a trace of its C++ code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("File ", "[bt]", "Stack trace"))]
    return (telling or lines or [type(error).__name__])[-1 if len(telling) > 3 else 0][:200]

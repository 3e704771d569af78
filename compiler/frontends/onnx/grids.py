"""Check the grids of quantised tensors: scales that are positive numbers, zero points of the tensor's own type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.graphs import graphs_of, nodes_of

Array = npt.NDArray[Any]
MICROSOFT = "com.microsoft"
_TWO = ((0, 1, 2), (3, 4, 5), (None, 6, 7))
_ONE = ((0, 1, 2), (None, 3, 4))
# Positions of data, scale and zero point of every grid that a node has; None where it has no such input.
_GRIDS: dict[tuple[str, str], tuple[tuple[int | None, int | None, int], ...]] = {
    ("", "QuantizeLinear"): ((None, 1, 2),),
    ("", "DequantizeLinear"): ((0, 1, 2),),
    ("", "QLinearConv"): _TWO,
    ("", "QLinearMatMul"): _TWO,
    ("", "ConvInteger"): ((0, None, 2), (1, None, 3)),
    ("", "MatMulInteger"): ((0, None, 2), (1, None, 3)),
    (MICROSOFT, "QuantizeLinear"): ((None, 1, 2),),
    (MICROSOFT, "DequantizeLinear"): ((0, 1, 2),),
    (MICROSOFT, "QLinearAdd"): _TWO,
    (MICROSOFT, "QLinearMul"): _TWO,
    (MICROSOFT, "QLinearSigmoid"): _ONE,
    (MICROSOFT, "QLinearLeakyRelu"): _ONE,
    (MICROSOFT, "QLinearAveragePool"): _ONE,
    (MICROSOFT, "QLinearGlobalAveragePool"): _ONE,
    (MICROSOFT, "QLinearReduceMean"): _ONE,
    (MICROSOFT, "QLinearSoftmax"): _ONE,
    (MICROSOFT, "QLinearWhere"): ((1, 2, 3), (4, 5, 6), (None, 7, 8)),
    (MICROSOFT, "QGemm"): ((0, 1, 2), (3, 4, 5), (None, 7, 8)),
    (MICROSOFT, "MatMulIntegerToFloat"): ((0, 2, 4), (1, 3, 5)),
}
WAY_OUT = "quantise the model again with inputs like the real ones, or leave this layer in float32"


def check_grids(model: ModelProto, path: Path) -> None:
    """Check every scale and zero point that is a constant of the model.

    Raises:
        ModelError: a scale that is zero, negative, infinite or NaN (zero passes where all that it scales is zero), or a
            zero point whose type is not that of the data.
    """
    stored = {tensor.name: tensor for graph in graphs_of(model, path) for tensor in graph.initializer}
    values = (v for g in graphs_of(model, path) for v in (*g.input, *g.value_info, *g.output))
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {name: tensor.data_type for name, tensor in stored.items()}
    for number, node in enumerate(nodes_of(model, path)):
        if node.op_type == "Constant" and node.output:
            stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.output:
            types.setdefault(node.output[0], types.get(node.input[2], 0))
        for data, scale, zero in _grids_of(node):
            told = f"{path}: {node.op_type} {node.name or next(iter(node.output), '') or number!r}"
            step = _array(node, scale, stored)
            if step is not None and step.dtype.kind == "f" and _has_signed_blocks(node):
                step = np.abs(step)
            _check_scale(step, _array(node, data, stored), _array(node, zero, stored), told)
            if data is not None and max(data, zero) < len(node.input) and node.input[zero]:
                _check_types(types.get(node.input[data], 0), types.get(node.input[zero], 0), told)


def _has_signed_blocks(node: NodeProto) -> bool:
    """Whether scales may be negative: NNCF's symmetric 4-bit weights have one of either sign for each block."""
    return node.op_type == "DequantizeLinear" and any(a.name == "block_size" and a.i for a in node.attribute)


def _grids_of(node: NodeProto) -> Iterator[tuple[int | None, int | None, int]]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) == (MICROSOFT, "QLinearConcat"):
        yield None, 0, 1
        yield from ((first, first + 1, first + 2) for first in range(2, len(node.input) - 2, 3))
    yield from _GRIDS.get((domain, node.op_type), ())


def _array(node: NodeProto, position: int | None, stored: Mapping[str, TensorProto]) -> Array | None:
    if position is None or position >= len(node.input) or node.input[position] not in stored:
        return None
    tensor = stored[node.input[position]]
    return None if tensor.data_type == TensorProto.STRING else np.asarray(numpy_helper.to_array(tensor))


def _check_scale(scale: Array | None, data: Array | None, zero: Array | None, told: str) -> None:
    if scale is None or scale.dtype.kind != "f" or not scale.size:
        return
    wide = scale.astype(np.float64)
    wrong = ~np.isfinite(wide) | (wide < 0)
    if (
        not wrong.any()
        and data is not None
        and not data.astype(np.float64).any()
        and (zero is None or not zero.any())
    ):
        return
    wrong |= (wide == 0) & (scale.size == 1 or data is None)
    if wrong.any():
        value, place = wide[wrong][0], np.flatnonzero(wrong)[0]
        where = f", the first one at position {place}" if scale.size > 1 else ""
        raise ModelError(f"{told} has a scale of {value:g}{where}; scales are positive numbers: {WAY_OUT}")


def _check_types(data: int, zero: int, told: str) -> None:
    if data and zero and data != zero:
        kinds = [
            helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower() for kind in (data, zero)
        ]
        raise ModelError(
            f"{told} has a zero point of type {kinds[1]} for data of type {kinds[0]}; both have to be the same: "
            "export the model again, or convert the zero point"
        )

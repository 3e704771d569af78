"""How to run a model with 8-bit products so that no sum saturates.

On an x86-64 CPU with AVX2 but without VNNI, ONNX Runtime multiplies unsigned by signed bytes with `vpmaddubsw`, which
adds each pair of products in 16 bits and saturates: 255 × 127 + 255 × 127 becomes 32767. Its results are then wrong for
large values, and a correct compiled model would be refused. The remedies that ONNX Runtime 1.31 offers were measured
under `qemu-x86_64 -cpu Haswell`:

- `session.x64quantprecision` turns constant signed weights into unsigned ones, whose products are exact. Sessions fail
  where a tensor is shared by two products, or where `QLinearConv` or `QLinearMatMul` has signed activations.
- `session.disable_quant_qdq` leaves layers between `DequantizeLinear` and `QuantizeLinear` in float32, as the standard
  defines them. Values on a rounding boundary may be rounded the other way.
- Nothing helps `ConvInteger` of signed by unsigned, or products whose signed right operand is computed. The
  evaluator of the `onnx` package is exact for these, if slow, and knows the standard's operators only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import Enum

from onnx import ModelProto, NodeProto, TensorProto

from edgec.compiler.frontends.onnx.shape_inference import infer_shapes
from edgec.targets.features import AVX512_VNNI, AVX_VNNI

MICROSOFT = "com.microsoft"
VNNI = frozenset({AVX512_VNNI, AVX_VNNI})
# Positions of the two operands; None is an operand that the operator itself quantises to unsigned bytes.
_INTEGER_PRODUCTS: dict[tuple[str, str], tuple[int | None, tuple[int, ...]]] = {
    ("", "ConvInteger"): (0, (1,)),
    ("", "MatMulInteger"): (0, (1,)),
    ("", "QLinearConv"): (0, (3,)),
    ("", "QLinearMatMul"): (0, (3,)),
    (MICROSOFT, "DynamicQuantizeLSTM"): (None, (1, 2)),
    (MICROSOFT, "DynamicQuantizeMatMul"): (None, (1,)),
    (MICROSOFT, "MatMulIntegerToFloat"): (0, (1,)),
    (MICROSOFT, "QAttention"): (0, (1,)),
    (MICROSOFT, "QGemm"): (0, (3,)),
}
_FLOAT_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Way:
    """One way to run a model as the reference.

    Attributes:
        settings: entries of ONNX Runtime's session configuration that are set to 1.
        standard: run the model with the evaluator of the `onnx` package instead.
        exact: no product saturates.
    """

    settings: tuple[str, ...] = ()
    standard: bool = False
    exact: bool = True


PLAIN = Way()
SATURATING = Way(exact=False)
UNSIGNED_WEIGHTS = Way(("session.x64quantprecision",))
UNFUSED = Way(("session.disable_quant_qdq",))
UNFUSED_UNSIGNED = Way((*UNFUSED.settings, *UNSIGNED_WEIGHTS.settings))
STANDARD = Way(standard=True)


def saturates(arch: str, features: frozenset[str]) -> bool:
    """Whether ONNX Runtime's products of unsigned by signed bytes saturate on such a CPU."""
    return arch == "x86_64" and "avx2" in features and not VNNI & features


def ways_to_run(model: ModelProto, arch: str, features: frozenset[str]) -> tuple[Way, ...]:
    """The ways to run `model` on such a CPU, best first; the first one that accepts it is the reference.

    Args:
        model: the source model.
        arch: architecture as in a target file, such as `x86_64`.
        features: the CPU's features as in `/proc/cpuinfo`.
    """
    if not saturates(arch, features):
        return (PLAIN,)
    nodes = [
        *_nodes(model.graph.node),
        *_nodes(node for function in model.functions for node in function.node),
    ]
    types, constants = _types(model), _constants(model, nodes)
    needs = {_need(node, types, constants) for node in nodes}
    fusible = _has_signed_floats(nodes, types)
    if needs <= {_Need.NOTHING} and not fusible:
        return (PLAIN,)
    settled = (UNFUSED_UNSIGNED if fusible else UNSIGNED_WEIGHTS) if _Need.UNSIGNED in needs else UNFUSED
    known = {"", "ai.onnx", "ai.onnx.ml", *(function.domain for function in model.functions)}
    if all(node.domain in known for node in nodes):
        last: tuple[Way, ...] = (STANDARD,)
    elif _Need.EVALUATOR in needs:
        return (replace(settled, exact=False), SATURATING)
    else:
        last = (SATURATING,)
    if _Need.EVALUATOR in needs:
        return last
    bitwise = fusible and _Need.UNSIGNED not in needs and not _multiplies_activations(nodes, constants)
    return (*((UNSIGNED_WEIGHTS,) if bitwise else ()), settled, *last)


class _Need(Enum):
    """What an integer product needs so that it does not saturate."""

    NOTHING = "it is exact"
    UNSIGNED = "unsigned weights"
    EVALUATOR = "another implementation"


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The given nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of the main graph's values, as far as they can be inferred."""
    graph = infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: kind for name, kind in types.items() if kind != TensorProto.UNDEFINED}


def _constants(model: ModelProto, nodes: Sequence[NodeProto]) -> set[str]:
    """Names of the values that do not depend on an input."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in nodes:
        if constants.issuperset(name for name in node.input if name):
            constants.update(node.output)
    return constants


def _need(node: NodeProto, types: Mapping[str, int], constants: Set[str]) -> _Need:
    """What an integer product needs. An unknown type counts as the one that saturates."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) not in _INTEGER_PRODUCTS:
        return _Need.NOTHING
    left, rights = _INTEGER_PRODUCTS[domain, node.op_type]
    first = TensorProto.UINT8 if left is None else types.get(node.input[left], TensorProto.UINT8)
    seconds = [node.input[right] for right in rights]
    if node.op_type == "ConvInteger":  # it multiplies weights by activations, in this order
        unsigned = types.get(seconds[0], TensorProto.UINT8) == TensorProto.UINT8
        signed_input = left is not None and types.get(node.input[left]) != TensorProto.UINT8
        return _Need.EVALUATOR if unsigned and signed_input else _Need.NOTHING
    signed = [name for name in seconds if types.get(name, TensorProto.INT8) == TensorProto.INT8]
    if first == TensorProto.INT8 or not signed:
        return _Need.NOTHING
    return _Need.UNSIGNED if set(signed) <= constants else _Need.EVALUATOR


def _has_signed_floats(nodes: Sequence[NodeProto], types: Mapping[str, int]) -> bool:
    """Whether float32 products may have signed bytes as operands: ONNX Runtime makes integer products of these."""
    signed = any(
        node.op_type == "DequantizeLinear" and types.get(node.input[0], TensorProto.INT8) == TensorProto.INT8
        for node in nodes
    )
    return signed and any(node.op_type in _FLOAT_PRODUCTS for node in nodes)


def _multiplies_activations(nodes: Sequence[NodeProto], constants: Set[str]) -> bool:
    """Whether both operands of a float32 product are computed from inputs."""
    return any(node.op_type in _FLOAT_PRODUCTS and node.input[1] not in constants for node in nodes)

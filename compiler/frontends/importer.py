"""From a cleaned ONNX model to a Relax module, node by node."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from onnx import AttributeProto, GraphProto, NodeProto, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as tvm_onnx

from edgec.compiler.errors import Unsupported, UnsupportedModel
from edgec.compiler.frontends import converters
from edgec.compiler.frontends.builder import Expr, SourceBuilder, constant
from edgec.compiler.frontends.clean import opset_of
from edgec.compiler.frontends.converters.registry import (
    CONVERTERS,
    MICROSOFT,
    Node,
    Refusal,
    dtype_of,
    shape_of,
)
from edgec.compiler.frontends.source import ImportedModel, SourceModel

# What TVM's converters raise when a node is not to their liking.
CONVERTER_ERRORS = (
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
REMEDY = (
    "Leave fallback on (the default) to run them through ONNX Runtime on the device, "
    "or export the model without them."
)


@dataclass
class Scope:
    """Values by name while a graph is imported; sub-graphs see those of the graphs around them."""

    importer: Importer
    values: dict[str, Expr]

    def graph(self, graph: GraphProto, arguments: Sequence[Expr]) -> list[Expr]:
        """Import a sub-graph in place, its inputs bound to ``arguments``; returns its outputs."""
        inner = Scope(self.importer, dict(self.values))
        inner.values |= {t.name: constant(numpy_helper.to_array(t)) for t in graph.initializer}
        inner.values |= {v.name: a for v, a in zip(graph.input, arguments, strict=True)}
        for node in graph.node:
            self.importer.convert(node, inner)
        return [inner.values[value.name] for value in graph.output]


class Importer:
    """Imports one model."""

    def __init__(self, source: SourceModel) -> None:
        self.source = source
        self.builder = SourceBuilder()
        self.opsets = {entry.domain: entry.version for entry in source.model.opset_import}
        self.opsets[""] = opset_of(source.model)
        self.tvm_table: Mapping[str, Any] = tvm_onnx._get_convert_map()

    def run(self) -> ImportedModel:
        """Build the module.

        Raises:
            UnsupportedModel: with every node that cannot be expressed.
        """
        graph = self.source.model.graph
        scope = Scope(self, {t.name: constant(numpy_helper.to_array(t)) for t in graph.initializer})
        params = []
        for port in self.source.inputs:
            var = relax.Var(port.safe_name, relax.TensorType(port.shape, port.dtype))
            params.append(var)
            scope.values[port.name] = var
        with self.builder.function("main", params=params):
            with self.builder.dataflow():
                refused = self._import_nodes(graph, scope)
                # a builder must not be left in the middle of a function: without results, return a zero
                results = [constant(0)] if refused else [scope.values[p.name] for p in self.source.outputs]
                body = self.builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            self.builder.emit_func_output(body)
        if refused:
            raise UnsupportedModel(refused)
        mod = self.builder.get()
        mod["main"] = mod["main"].with_attr("num_input", len(params))
        return ImportedModel(mod=mod, source=self.source)

    def _import_nodes(self, graph: GraphProto, scope: Scope) -> list[Unsupported]:
        refused: list[Unsupported] = []
        lost: set[str] = set()
        for node in graph.node:
            index = next(
                (self.source.origins[name] for name in node.output if name in self.source.origins), 0
            )
            self.builder.begin_node(index, node.op_type)
            if lost.intersection(node.input):
                lost.update(node.output)
                continue
            try:
                self.convert(node, scope)
            except Refusal as refusal:
                refused.append(self._unsupported(index, node, str(refusal)))
                lost.update(name for name in node.output if name)
        return refused

    def _unsupported(self, index: int, node: NodeProto, reason: str) -> Unsupported:
        label = self.source.nodes[index].label if index < len(self.source.nodes) else node.name
        return Unsupported(index, label, node.op_type, node.domain, reason, REMEDY)

    def convert(self, node: NodeProto, scope: Scope) -> None:
        """Convert one node and bind its outputs in ``scope``.

        Raises:
            Refusal: it cannot be expressed.
        """
        inputs = [scope.values[name] if name else None for name in node.input]
        attrs = {a.name: attribute_value(a) for a in node.attribute}
        opset = self.opsets.get(node.domain, 1)
        key = (node.domain, node.op_type)
        if key in CONVERTERS:
            data = Node(
                node.op_type, node.domain, opset, self.builder, inputs, attrs, list(node.output), scope
            )
            try:
                result = CONVERTERS[key](data)
            except CONVERTER_ERRORS as error:
                raise Refusal(first_line(error)) from error
        elif node.op_type in self.tvm_table and self._means_the_same(node):
            result = self._by_tvm(node, inputs, scope)
        else:
            raise Refusal("there is no converter for this operator")
        self._bind(node, result, scope)

    def _means_the_same(self, node: NodeProto) -> bool:
        return node.domain == "" or (node.domain == MICROSOFT and node.op_type in TVM_MICROSOFT)

    def _by_tvm(self, node: NodeProto, inputs: list[Expr | None], scope: Scope) -> Expr:
        attrs = {a.name: tvm_attribute(a) for a in node.attribute}
        attrs["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        padded = tvm_onnx.onnx_input()
        padded.extend(inputs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opset = self.opsets.get("" if node.domain == "" else node.domain, 1)
                convert = self.tvm_table[node.op_type].get_converter(opset)
                result = convert(self.builder, padded, attrs, [scope.values, {}])
                return self.builder.normalize(result) if isinstance(result, tvm.ir.Expr) else result
        except CONVERTER_ERRORS as error:
            raise Refusal(first_line(error)) from error

    def _bind(self, node: NodeProto, result: Expr | Sequence[Expr], scope: Scope) -> None:
        try:
            if isinstance(result, list | tuple):
                items = list(result)
            elif isinstance(result, relax.Tuple):
                items = list(result.fields)
            else:
                bound = self._settle(result)
                if isinstance(bound.ty, relax.TupleType):
                    items = [relax.TupleGetItem(bound, i) for i in range(len(bound.ty.fields))]
                else:
                    items = [bound]
            for name, item in zip(node.output, items, strict=False):
                if name:
                    scope.values[name] = self._settle(item)
                    shape_of(scope.values[name])
        except CONVERTER_ERRORS as error:
            raise Refusal(first_line(error)) from error
        if len([name for name in node.output if name]) > len(items):
            raise Refusal(f"its output {node.output[len(items)]!r} is not computed")

    def _settle(self, value: Expr) -> Expr:
        """The value as a variable or a tensor constant."""
        if isinstance(value, relax.ShapeExpr):
            return constant([int(size) for size in value.values], "int64")
        if isinstance(value, relax.Var | tvm.ir.GenericConst):
            return value
        return self.builder.emit(value)


def attribute_value(attribute: AttributeProto) -> Any:  # noqa: ANN401 - as many types as attributes have
    """An attribute as Python values: text as ``str``, lists as lists, tensors and graphs as they are."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.STRING:
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
        return list(value)
    return value


def tvm_attribute(attribute: AttributeProto) -> Any:  # noqa: ANN401 - see above
    """An attribute as TVM's converters want it: text as bytes, lists as tuples."""
    value = onnx.helper.get_attribute_value(attribute)
    kinds = (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS)
    return tuple(value) if attribute.type in kinds else value


def first_line(error: BaseException) -> str:
    """The telling line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("File ", "[bt]", "Stack trace"))]
    return (telling or lines or [type(error).__name__])[-1 if len(telling) > 3 else 0][:200]


def to_relax(source: SourceModel) -> ImportedModel:
    """Import a cleaned model.

    Returns:
        a module whose function ``main`` takes the model's inputs in order under their safe names, with the
        constants embedded; bindings are named after the source's nodes.

    Raises:
        UnsupportedModel: nodes that cannot be compiled.
    """
    converters.load_all()
    return Importer(source).run()


__all__ = ["Importer", "Scope", "dtype_of", "to_relax"]

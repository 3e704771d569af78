"""From a cleaned ONNX model to a Relax module, node by node."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as tvm_onnx

from edgec.compiler.errors import Unsupported, UnsupportedModel
from edgec.compiler.frontends.onnx.read import free_names
from edgec.compiler.frontends.onnx.simplify import opset_of, runs_in_onnxruntime
from edgec.compiler.frontends.relax import converters, fallback
from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CONVERTERS,
    MICROSOFT,
    Decline,
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
# Names in TVM's table that belong to com.microsoft; the standard has other operators of the same name.
NOT_STANDARD = TVM_MICROSOFT - {"Gelu"} | {"Attention", "AllClassNMS"}
# Lists of tensors: TVM's converters for them have been seen to run for minutes.
LISTS = frozenset(
    {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"}
) | {"SequenceInsert", "SequenceLength", "SplitToSequence"}
NO_CONVERTER = "there is no converter for this operator"
LOST = "the shape of its input depends on the data, and only static shapes compile"
# Operators that do little but move data: not worth a change of hands.
MOVERS = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"}
    | {"Split", "Transpose", "Unsqueeze", "Shape", "Not", "Equal", "Where", "Add", "Sub", "Mul"}
)
NO_WAY = "ONNX Runtime does not know them either: export the model with standard operators."
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
        graph = source.model.graph
        self.types = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        self.segments: list[fallback.ForeignSegment] = []

    def run(self, foreign: Collection[int] = ()) -> ImportedModel:
        """Build the module.

        Args:
            foreign: positions (in the cleaned model) of nodes for ONNX Runtime.

        Raises:
            UnsupportedModel: with every other node that cannot be expressed.
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
                refused = self._import_steps(graph, fallback.plan(graph, set(foreign)), set(foreign), scope)
                # a builder must not be left in the middle of a function: without results, return a zero
                results = [constant(0)] if refused else [scope.values[p.name] for p in self.source.outputs]
                body = self.builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            self.builder.emit_func_output(body)
        if refused:
            raise UnsupportedModel([refusal for _, refusal in refused])
        mod = self.builder.get()
        mod["main"] = mod["main"].with_attr("num_input", len(params))
        return ImportedModel(mod=mod, source=self.source, segments=tuple(self.segments))

    def try_out(self) -> list[tuple[int, Unsupported]]:
        """Which nodes cannot be expressed, by position, with the reasons; values they make are pretended."""
        graph = self.source.model.graph
        scope = Scope(self, {t.name: constant(numpy_helper.to_array(t)) for t in graph.initializer})
        for port in self.source.inputs:
            scope.values[port.name] = relax.Var(port.safe_name, relax.TensorType(port.shape, port.dtype))
        params = [scope.values[port.name] for port in self.source.inputs]
        with self.builder.function("main", params=params):
            with self.builder.dataflow():
                steps = [[position] for position in range(len(graph.node))]
                refused = self._import_steps(graph, steps, set(), scope, pretend=True)
                body = self.builder.emit_output(constant(0))
            self.builder.emit_func_output(body)
        return refused

    def _import_steps(
        self,
        graph: GraphProto,
        steps: list[list[int]],
        foreign: Collection[int],
        scope: Scope,
        *,
        pretend: bool = False,
    ) -> list[tuple[int, Unsupported]]:
        refused: list[tuple[int, Unsupported]] = []
        for step in steps:
            node = graph.node[step[0]]
            index = self._origin(node)
            self.builder.begin_node(index, node.op_type)
            if step[0] in foreign:
                self._call_segment(step, scope)
                continue
            try:
                if not has_converter(node):
                    raise Refusal(NO_CONVERTER)
                if any(name not in scope.values for name in free_names(node)):
                    raise Refusal(LOST)
                self.convert(node, scope)
            except Refusal as refusal:
                refused.append((step[0], self._unsupported(index, node, str(refusal))))
                if pretend:
                    self._pretend(node, scope)
        return refused

    def _origin(self, node: NodeProto) -> int:
        return next((self.source.origins[name] for name in node.output if name in self.source.origins), 0)

    def _pretend(self, node: NodeProto, scope: Scope) -> None:
        """Bind values of the types that a refused node's outputs will have, as far as they are static."""
        for name in node.output:
            kind = static_type(self.types.get(name))
            if name and kind is not None:
                call = relax.op.call_pure_packed(fallback.FUNCTION_PREFIX, constant(0), ty_args=kind)
                scope.values[name] = self.builder.emit(call)

    def _call_segment(self, members: list[int], scope: Scope) -> None:
        """Cut foreign nodes out as a segment and emit the call of it."""
        entering = {
            name: fallback.value_type(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(value))), shape_or_none(value)
            )
            for name, value in scope.values.items()
            if isinstance(value.ty, relax.TensorType)
        }
        labels = {i: self._label(self._origin(self.source.model.graph.node[i])) for i in members}
        segment = fallback.cut(self.source.model, members, self.types | entering, labels)
        arguments = [scope.values[name] for name in segment.inputs]
        kinds = [static_type(self.types.get(name)) for name in segment.outputs]
        if all(kind is not None for kind in kinds):
            # compiled code owns the results' memory, and ONNX Runtime writes into it
            call = relax.op.call_dps_packed(segment.function, relax.Tuple(arguments), kinds)
        else:
            loose = [
                kind or loose_type(self.types.get(name))
                for name, kind in zip(segment.outputs, kinds, strict=True)
            ]
            call = relax.op.call_pure_packed(
                segment.function, *arguments, ty_args=loose[0] if len(loose) == 1 else relax.TupleType(loose)
            )
        called = self.builder.emit(call)
        for i, name in enumerate(segment.outputs):
            single = len(segment.outputs) == 1
            scope.values[name] = called if single else self.builder.emit(relax.TupleGetItem(called, i))
        self.segments.append(segment)

    def _label(self, index: int) -> str:
        return self.source.nodes[index].label if index < len(self.source.nodes) else f"node {index}"

    def _unsupported(self, index: int, node: NodeProto, reason: str) -> Unsupported:
        return Unsupported(index, self._label(index), node.op_type, node.domain, reason, REMEDY)

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
            except Decline:
                result = self._by_tvm(node, inputs, scope)
            except CONVERTER_ERRORS as error:
                raise Refusal(first_line(error)) from error
        elif has_converter(node):
            result = self._by_tvm(node, inputs, scope)
        else:
            raise Refusal(NO_CONVERTER)
        self._bind(node, result, scope)

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


def has_converter(node: NodeProto) -> bool:
    """Whether there is a converter for a node's operator, ours or TVM's."""
    converters.load_all()
    if (node.domain, node.op_type) in CONVERTERS:
        return True
    if node.op_type not in tvm_onnx._get_convert_map():
        return False
    standard = node.domain == "" and node.op_type not in NOT_STANDARD | LISTS
    return standard or (node.domain == MICROSOFT and node.op_type in TVM_MICROSOFT)


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


def static_type(value: ValueInfoProto | None) -> Expr | None:
    """The Relax type of a value that is declared as a tensor of static shape, else None."""
    if not fallback.is_tensor(value) or value is None:
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return relax.TensorType([d.dim_value for d in tensor.shape.dim], _dtype_name(tensor.elem_type))


def loose_type(value: ValueInfoProto | None) -> Expr:
    """The Relax type of a tensor whose shape is known only when the model runs."""
    if not fallback.is_tensor(value) or value is None:
        raise Refusal("a value that is no tensor would leave the part that ONNX Runtime runs")
    return relax.TensorType(dtype=_dtype_name(value.type.tensor_type.elem_type), ndim=-1)


def _dtype_name(elem_type: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(elem_type))


def shape_or_none(value: Expr) -> tuple[int, ...] | None:
    """The static shape of a value, or None."""
    try:
        return shape_of(value)
    except Refusal:
        return None


def to_relax(source: SourceModel, *, fallback_allowed: bool = False) -> ImportedModel:
    """Import a cleaned model.

    Args:
        source: from :func:`edgec.compiler.frontends.load_source`.
        fallback_allowed: leave what cannot be compiled to ONNX Runtime, called from the compiled code.

    Returns:
        a module whose function ``main`` takes the model's inputs in order under their safe names, with the
        constants embedded; bindings are named after the source's nodes.

    Raises:
        UnsupportedModel: nodes that cannot be compiled (nor, with fallback, be cut out for ONNX Runtime).
    """
    converters.load_all()
    refused = Importer(source).try_out()
    if not refused:
        return Importer(source).run()
    if not fallback_allowed:
        raise UnsupportedModel(causes(refused))
    graph = source.model.graph
    foreign = fallback.widen(graph, [position for position, _ in refused], MOVERS)
    try:
        imported = Importer(source).run(foreign)
    except (Refusal, fallback.UntypedValue) as refusal:
        nodes = [replace(node, reason=str(refusal)) for node in causes(refused)]
        raise UnsupportedModel(nodes) from refusal
    for segment in imported.segments:
        if not runs_in_onnxruntime(segment.model):
            raise UnsupportedModel([replace(node, remedy=NO_WAY) for node in causes(refused)])
    return imported


def causes(refused: list[tuple[int, Unsupported]]) -> list[Unsupported]:
    """The nodes that were refused for themselves; all of them, where each waits for another."""
    own = [node for _, node in refused if node.reason != LOST]
    return own or [node for _, node in refused]


__all__ = ["Importer", "Scope", "to_relax"]

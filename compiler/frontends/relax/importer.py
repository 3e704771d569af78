"""From a cleaned ONNX model to a Relax module, node by node."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from tvm import relax

from edgec.compiler.errors import InternalError, Unsupported, UnsupportedModel
from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.onnx.opsets import opset_of
from edgec.compiler.frontends.relax import converters, fallback, tvm_converters
from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CONVERTERS,
    CannotConvert,
    LeaveToTvm,
    Node,
    dtype_of,
    is_constant,
    shape_of,
)
from edgec.compiler.frontends.relax.lists import Absent, TensorList
from edgec.compiler.frontends.relax.nothing import results_of_nothing
from edgec.compiler.frontends.relax.values import attribute_value, loose_type, shape_or_none, static_type
from edgec.compiler.frontends.source import FallbackSegment, ImportedModel, SourceModel

NO_CONVERTER = "there is no converter for this operator"
TEXTS = "it takes texts, and compiled models compute on numbers"
LOST = "the shape of its input depends on the data, and only static shapes compile"
REMEDY = (
    "Leave fallback on (the default) to run them through ONNX Runtime on the device, "
    "or export the model without them."
)


@dataclass
class Scope:
    """Values by name while a graph is imported; sub-graphs see those of the enclosing graphs."""

    importer: Importer
    values: dict[str, Expr]

    def graph(self, graph: GraphProto, arguments: Sequence[Expr]) -> list[Expr]:
        """Import a sub-graph in place with its inputs bound to `arguments`; returns its outputs."""
        inner = Scope(self.importer, dict(self.values))
        inner.values |= self.importer.stored_values(graph)
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
        graph = source.model.graph
        self.types = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        self.texts: set[str] = set()
        self.lists: set[str] = set()  # names of sequences and empty optional values
        self.segments: list[FallbackSegment] = []

    def run(self, uncompiled: Collection[int] = ()) -> ImportedModel:
        """Build the module.

        Args:
            uncompiled: positions (in the cleaned model) of the nodes to run in ONNX Runtime.

        Raises:
            UnsupportedModel: other nodes cannot be converted; the exception lists them all.
            InternalError: a converter fails with anything but `CannotConvert`.
        """
        graph = self.source.model.graph
        scope = Scope(self, self.stored_values(graph))
        params = []
        for port in self.source.inputs:
            var = relax.Var(port.safe_name, relax.TensorType(port.shape, port.dtype))
            params.append(var)
            scope.values[port.name] = var
        with self.builder.function("main", params=params):
            with self.builder.dataflow():
                refused = self._import_steps(
                    graph, fallback.plan(graph, set(uncompiled)), set(uncompiled), scope
                )
                # a builder must not be left in the middle of a function: without results, return a zero
                results = [constant(0)] if refused else [scope.values[p.name] for p in self.source.outputs]
                body = self.builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            self.builder.emit_func_output(body)
        if refused:
            raise UnsupportedModel([refusal for _, refusal in refused])
        mod = self.builder.get()
        mod["main"] = mod["main"].with_attr("num_input", len(params))
        return ImportedModel(mod=mod, source=self.source, segments=tuple(self.segments))

    def stored_values(self, graph: GraphProto) -> dict[str, Expr]:
        """A graph's initialisers as constants, by name; strings are only recorded, by name."""
        numbers = [tensor for tensor in graph.initializer if tensor.data_type != TensorProto.STRING]
        self.texts |= {t.name for t in graph.initializer if t.data_type == TensorProto.STRING}
        return {tensor.name: constant(numpy_helper.to_array(tensor)) for tensor in numbers}

    def try_out(self) -> list[tuple[int, Unsupported]]:
        """The nodes that cannot be converted, by position, with the reasons.

        Their outputs are replaced by placeholders of the same types, so that later nodes can be tried, too.

        Raises:
            InternalError: a converter fails with anything but `CannotConvert`.
        """
        graph = self.source.model.graph
        scope = Scope(self, self.stored_values(graph))
        for port in self.source.inputs:
            scope.values[port.name] = relax.Var(port.safe_name, relax.TensorType(port.shape, port.dtype))
        params = [scope.values[port.name] for port in self.source.inputs]
        with self.builder.function("main", params=params):
            with self.builder.dataflow():
                steps = [[position] for position in range(len(graph.node))]
                refused = self._import_steps(graph, steps, set(), scope, placeholders=True)
                body = self.builder.emit_output(constant(0))
            self.builder.emit_func_output(body)
        return refused

    def _import_steps(
        self,
        graph: GraphProto,
        steps: list[list[int]],
        uncompiled: Collection[int],
        scope: Scope,
        *,
        placeholders: bool = False,
    ) -> list[tuple[int, Unsupported]]:
        refused: list[tuple[int, Unsupported]] = []
        for step in steps:
            node = graph.node[step[0]]
            index = self._origin(node)
            self.builder.begin_node(index, node.op_type)
            if step[0] in uncompiled:
                self._call_segment(step, scope)
                continue
            try:
                self.convert(node, scope)
            except CannotConvert as refusal:
                refused.append((step[0], self._unsupported(index, node, str(refusal))))
                if placeholders:
                    self._bind_placeholders(node, scope)
        return refused

    def _origin(self, node: NodeProto) -> int:
        return next((self.source.origins[name] for name in node.output if name in self.source.origins), 0)

    def _bind_placeholders(self, node: NodeProto, scope: Scope) -> None:
        """Bind values of the types of a node's outputs, where those are static."""
        for name in node.output:
            kind = static_type(self.types.get(name))
            if name and kind is not None:
                call = relax.op.call_pure_packed(fallback.FUNCTION_PREFIX, constant(0), ty_args=kind)
                scope.values[name] = self.builder.emit(call)

    def _call_segment(self, members: list[int], scope: Scope) -> None:
        """Cut uncompiled nodes out as a segment and emit a call to it."""
        entering = {
            name: fallback.value_type(
                name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(value))), shape_or_none(value)
            )
            for name, value in scope.values.items()
            if not isinstance(value, TensorList | Absent) and isinstance(value.ty, relax.TensorType)
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
        """Convert one node and bind its outputs in `scope`.

        Raises:
            CannotConvert: it cannot be expressed.
            InternalError: its converter fails in any other way.
        """
        if not has_converter(node):
            raise CannotConvert(NO_CONVERTER)
        missing = free_names(node) - scope.values.keys()
        if missing:
            raise CannotConvert(TEXTS if missing & self.texts else LOST)
        inputs = [scope.values[name] if name else None for name in node.input]
        known = self._results_of_nothing(node, inputs)
        if known is not None:
            self._bind(node, known, scope)
            return
        opset = self.opsets.get(node.domain, 1)
        converter = CONVERTERS.get((node.domain, node.op_type))
        try:
            if converter is None:
                raise LeaveToTvm
            attrs = {a.name: attribute_value(a) for a in node.attribute}
            names = list(node.output)
            data = Node(node.op_type, node.domain, opset, self.builder, inputs, attrs, names, scope)
            results = self.builder.outputs(converter(data), names)
        except LeaveToTvm:
            if not tvm_converters.knows(node):
                raise CannotConvert(NO_CONVERTER) from None
            results = tvm_converters.convert(self.builder, node, opset, inputs, scope.values)
        except (CannotConvert, InternalError):
            raise
        except Exception as error:  # a defect of edgec, which must not pass for "cannot convert"
            name = self._label(self._origin(node))
            raise InternalError(
                f"internal error in the converter of {node.op_type} at {name!r} ({type(error).__name__}: "
                f"{tvm_converters.telling_line(error)}); please report it, with the model if you can"
            ) from error
        self._bind(node, results, scope)

    def _results_of_nothing(self, node: NodeProto, inputs: list[Expr | None]) -> list[Expr] | None:
        if not any(shape_or_none(x) is not None and 0 in shape_of(x) for x in inputs if x is not None):
            return None
        dtypes = [None if x is None else dtype_of(x) for x in inputs]
        arrays = results_of_nothing(node, inputs, self.opsets, dtypes)
        return None if arrays is None else [constant(array) for array in arrays]

    def _bind(self, node: NodeProto, results: list[Expr], scope: Scope) -> None:
        for name, result in zip(node.output, results, strict=False):
            if not name:
                continue
            if isinstance(result, TensorList | Absent):
                self.lists.add(name)
            elif 0 in shape_of(result) and not is_constant(result):
                result = constant(np.zeros(shape_of(result), dtype_of(result)))
            scope.values[name] = result
        if len([name for name in node.output if name]) > len(results):
            raise CannotConvert(f"its output {node.output[len(results)]!r} is not computed")


def has_converter(node: NodeProto) -> bool:
    """Whether there is a converter for a node's operator, ours or TVM's."""
    converters.load_all()
    return (node.domain, node.op_type) in CONVERTERS or tvm_converters.knows(node)

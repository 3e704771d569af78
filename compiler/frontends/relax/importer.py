"""From a cleaned ONNX model to a Relax module, node by node."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import tvm
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from tvm import relax

from edgec.compiler.errors import InternalError, ModelError, Unsupported, UnsupportedModel
from edgec.compiler.frontends.onnx.graphs import free_names, types_inside
from edgec.compiler.frontends.onnx.opsets import opset_of
from edgec.compiler.frontends.onnx.quantised_weights import integer_constants
from edgec.compiler.frontends.relax import converters, fallback, tvm_converters
from edgec.compiler.frontends.relax.amounts import shape_arithmetic
from edgec.compiler.frontends.relax.builder import Expr, SourceBuilder, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CONVERTERS,
    DYNAMIC,
    CannotConvert,
    LeaveToTvm,
    Node,
    dtype_of,
    is_constant,
    shape_of,
)
from edgec.compiler.frontends.relax.dims import (
    Dim,
    bound,
    cast_to,
    dims_of,
    fresh,
    is_static,
    with_fresh_dims,
)
from edgec.compiler.frontends.relax.known_results import known_results
from edgec.compiler.frontends.relax.lists import NO_TENSOR
from edgec.compiler.frontends.relax.misfits import why_it_fails
from edgec.compiler.frontends.relax.parts import Argument, Part, import_part
from edgec.compiler.frontends.relax.values import attribute_value, loose_type, shape_or_none, static_type
from edgec.compiler.frontends.source import FallbackSegment, ImportedModel, SourceModel
from edgec.compiler.graph.control import PREFIX, Control, Parts

NO_CONVERTER = "there is no converter for this operator"
TEXTS = "it takes texts, and compiled models compute on numbers"
LOST = "the shape of its input depends on the data, and only static shapes compile"
# The first input of an operator that decides the shape of its result.
AMOUNTS = {"ConstantOfShape": 0, "Range": 0} | dict.fromkeys(
    ["Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze"], 1
)
REMEDY = (
    "An artifact with fallback on (the default) runs them through ONNX Runtime on the device, which a C library "
    "cannot. Otherwise, export the model without them."
)


@dataclass
class Scope:
    """Values by name while a graph is imported; sub-graphs see those of the enclosing graphs."""

    importer: Importer
    values: MutableMapping[str, Expr]

    def graph(self, graph: GraphProto, arguments: Sequence[Expr]) -> list[Expr]:
        """Import a sub-graph in place with its inputs bound to `arguments`; returns its outputs."""
        return self.importer.import_graph(graph, self.values, arguments)

    def with_values(self, values: Mapping[str, Expr]) -> Scope:
        """The scope with further values."""
        return Scope(self.importer, ChainMap(dict(values), self.values))

    def fails(self, graph: GraphProto) -> str | None:
        """Why a branch fails in every run; None where it need not."""
        return why_it_fails(graph, self.values, self.importer.source.model)

    def part(self, graph: GraphProto, arguments: Sequence[Argument]) -> Part:
        """Import a sub-graph as a function of its own."""
        importer = self.importer
        importer.count += 1
        return import_part(importer, graph, self.values, arguments, f"{PREFIX}{importer.count}")


class Importer:
    """Imports one model."""

    def __init__(self, source: SourceModel) -> None:
        self.source = source
        self.builder = SourceBuilder()
        self.opsets = {entry.domain: entry.version for entry in source.model.opset_import}
        self.opsets[""] = opset_of(source.model)
        graph = source.model.graph
        self.types = {v.name: v for v in (*graph.value_info, *graph.output, *graph.input)}
        self.inner_types = types_inside(source.model, source.path)
        self.kept = integer_constants(source.model)  # results of DequantizeLinear that stay integers
        self.texts: set[str] = set()
        self.lists: set[str] = set()  # names of sequences and empty optional values
        self.segments: list[FallbackSegment] = []
        self.count = 0  # of the parts that were imported
        self.modules: dict[str, tvm.IRModule] = {}
        self.control: list[Control] = []
        self.known: dict[
            Expr, list[Dim]
        ] = {}  # integers that follow from shapes, by the tensor that holds them
        self.limits: dict[Expr, tuple[int, int]] = {}  # of symbolic sizes, both included

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
        params = self._inputs(scope)
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
        parts = Parts(dict(self.modules), tuple(self.control))
        return ImportedModel(mod, self.source, tuple(self.segments), parts)

    def import_graph(
        self, graph: GraphProto, outer: MutableMapping[str, Expr], arguments: Sequence[Expr]
    ) -> list[Expr]:
        """Import a sub-graph with its inputs bound to `arguments`, and return its outputs."""
        own: dict[str, Expr] = self.stored_values(graph)
        own |= {v.name: a for v, a in zip(graph.input, arguments, strict=True)}
        inner = Scope(self, ChainMap(own, outer))
        for node in graph.node:
            try:
                self.convert(node, inner)
            except CannotConvert as refusal:
                raise CannotConvert(
                    f"{node.op_type} {node.name or node.output[0]!r} in it: {refusal}"
                ) from refusal
        return [inner.values[value.name] for value in graph.output]

    def limit(self, var: Expr, like: Dim) -> None:
        """Note that a symbolic size has the limits of another one."""
        if like in self.limits:
            self.limits[var] = self.limits[like]

    def exceeds_one(self, value: Dim) -> bool:
        """Whether a size is known to be above 1, so that it is no axis to broadcast."""
        if isinstance(value, int):
            return value > 1
        analyzer = tvm.sym.Analyzer()
        for var, (low, high) in self.limits.items():
            analyzer.bind(var, tvm.ir.Range.from_min_extent(low, high - low + 1))
        return bool(analyzer.can_prove(value > 1))

    def _inputs(self, scope: Scope) -> list[Expr]:
        """The parameters of the model's function, with a variable for each symbolic size."""
        names = {symbol: fresh(f"s{n}") for n, symbol in enumerate(self.source.bounds)}
        self.limits |= {names[symbol]: (one.low, one.high) for symbol, one in self.source.bounds.items()}
        params = []
        for port in self.source.inputs:
            symbols = port.symbols or ("",) * len(port.shape)
            shape = [names[s] if s else length for s, length in zip(symbols, port.shape, strict=True)]
            params.append(relax.Var(port.safe_name, relax.TensorType(shape, port.dtype)))
            scope.values[port.name] = params[-1]
            if 0 in port.shape and not any(symbols):  # its value is known
                scope.values[port.name] = constant(np.zeros(port.shape, port.dtype))
        return params

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
        params = self._inputs(scope)
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
            index = self.origin(node)
            self.builder.begin_node(index, node.op_type)
            if step[0] in uncompiled:
                self._call_segment(step, scope)
                continue
            try:
                self.convert(node, scope)
            except CannotConvert as refusal:
                refused.append((step[0], self.unsupported(index, node, str(refusal))))
                if placeholders:
                    self._bind_placeholders(node, scope)
        return refused

    def origin(self, node: NodeProto) -> int:
        """The position in the source model of a node of the cleaned one."""
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
            if not isinstance(value, NO_TENSOR) and isinstance(value.ty, relax.TensorType)
        }
        labels = {i: self._label(self.origin(self.source.model.graph.node[i])) for i in members}
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

    def unsupported(self, index: int, node: NodeProto, reason: str) -> Unsupported:
        """A node that cannot be compiled, with the way out."""
        return Unsupported(index, self._label(index), node.op_type, node.domain, reason, REMEDY)

    def convert(self, node: NodeProto, scope: Scope) -> None:
        """Convert one node and bind its outputs in `scope`.

        Raises:
            CannotConvert: it cannot be expressed.
            ModelError: it fails for any inputs of these shapes.
            InternalError: its converter fails in any other way.
        """
        if not has_converter(node):
            raise CannotConvert(NO_CONVERTER)
        missing = free_names(node) - scope.values.keys()
        if missing:
            raise CannotConvert(TEXTS if missing & self.texts else LOST)
        inputs = [scope.values[name] if name else None for name in node.input]
        known = self._known_results(node, inputs) or self._hollow_results(node)
        if known is not None:
            self._bind(node, known, scope)
            return
        try:
            self._bind(node, self._results(node, inputs, scope), scope)
        except (CannotConvert, InternalError, ModelError):
            raise
        except (
            Exception
        ) as error:  # a defect of the model or of edgec, which must not pass for "cannot convert"
            name = self._label(self.origin(node))
            alone = helper.make_graph(
                [node], "node", [], [helper.make_empty_tensor_value_info(node.output[0])]
            )
            why = why_it_fails(alone, scope.values, self.source.model)
            if why is not None:
                raise ModelError(
                    f"{self.source.path}: the inputs of {node.op_type} {name!r} do not fit together: {why}\n"
                    "Mend that node or export the model again; ONNX Runtime fails on it, too."
                ) from error
            raise InternalError(
                f"internal error in the converter of {node.op_type} at {name!r} ({type(error).__name__}: "
                f"{tvm_converters.telling_line(error)}); please report it, with the model if you can"
            ) from error

    def _results(self, node: NodeProto, inputs: list[Expr | None], scope: Scope) -> list[Expr]:
        """The outputs of a node: by its usual converter, or by that for sizes known only at run time."""
        data = self._node(node, inputs, scope)
        known = shape_arithmetic(data)
        if known is not None:
            return [known]
        dynamic = DYNAMIC.get((node.domain, node.op_type))
        tensors = [x for x in inputs if x is not None and not isinstance(x, NO_TENSOR)]
        if dynamic is None:
            made = self.by_usual_converter(node, inputs, scope)
            if all(is_static(x) for x in tensors):  # what depends on the data needs a converter that says how
                for name, result in zip(node.output, made, strict=False):  # one that nobody reads has no type
                    _ = not name or isinstance(result, NO_TENSOR) or shape_of(result)
            return made
        from_data = AMOUNTS.get(node.op_type, len(inputs))
        if all(is_static(x) for x in tensors) and all(
            x is None or is_constant(x) for x in inputs[from_data:]
        ):
            with suppress(CannotConvert):
                return self.by_usual_converter(node, inputs, scope)
        return self.builder.outputs(dynamic(data), data.outputs)

    def _node(self, node: NodeProto, inputs: list[Expr | None], scope: Scope) -> Node:
        attrs = {a.name: attribute_value(a) for a in node.attribute}
        opset = self.opsets.get(node.domain, 1)
        names = list(node.output)
        usual = partial(self.by_usual_converter, node, scope=scope)
        return Node(node.op_type, node.domain, opset, self.builder, inputs, attrs, names, scope, usual)

    def by_usual_converter(self, node: NodeProto, inputs: list[Expr | None], scope: Scope) -> list[Expr]:
        """The outputs of a node by the converter of its operator, ours or TVM's."""
        converter = CONVERTERS.get((node.domain, node.op_type))
        try:
            if converter is None:
                raise LeaveToTvm
            return self.builder.outputs(converter(self._node(node, inputs, scope)), list(node.output))
        except LeaveToTvm:
            if not tvm_converters.knows(node):
                raise CannotConvert(NO_CONVERTER) from None
            opset = self.opsets.get(node.domain, 1)
            return tvm_converters.convert(self.builder, node, opset, inputs, scope.values)

    def _hollow_results(self, node: NodeProto) -> list[Expr] | None:
        """The outputs of a node none of which has an element."""
        kinds = [static_type(self.types.get(name)) for name in node.output if name]
        if not kinds or any(kind is None or 0 not in [int(s) for s in kind.shape] for kind in kinds):
            return None
        told = iter(kinds)
        made = [next(told) if name else None for name in node.output]
        return [
            constant(np.zeros([int(s) for s in kind.shape], str(kind.dtype)) if kind is not None else 0)
            for kind in made
        ]

    def _known_results(self, node: NodeProto, inputs: list[Expr | None]) -> list[Expr] | None:
        given = [x for x in inputs if x is not None]
        if any(isinstance(x, NO_TENSOR) for x in given) or node.domain not in ("", "ai.onnx"):
            return None
        empty = any(shape_or_none(x) is not None and 0 in shape_of(x) for x in given)
        if not empty and not all(is_constant(x) for x in given):
            return None
        dtypes = [None if x is None else dtype_of(x) for x in inputs]
        arrays = known_results(node, inputs, self.opsets, dtypes)
        return None if arrays is None else [constant(array) for array in arrays]

    def _with_sizes(self, value: Expr) -> Expr:
        """A tensor of known rank whose sizes have names at least; any other passes as it is."""
        if not isinstance(value.ty, relax.TensorType):
            raise CannotConvert(LOST)
        if value.ty.ndim < 0:
            return value
        if isinstance(value.ty.shape, relax.ShapeExpr):
            return self._named(value)
        return with_fresh_dims(self.builder, value, int(value.ty.ndim), dtype_of(value))

    def _named(self, value: Expr) -> Expr:
        """A tensor whose sizes are numbers and names: kernels get no formulas."""
        own = dims_of(value)
        if all(isinstance(one, int | tvm.tirx.Var) for one in own):
            return value
        return cast_to(self.builder, value, [bound(self.builder, one) for one in own])

    def _bind(self, node: NodeProto, results: list[Expr], scope: Scope) -> None:
        for name, result in zip(node.output, results, strict=False):
            if not name:
                continue
            if isinstance(result, NO_TENSOR):
                self.lists.add(name)
            elif not is_static(result):
                result = self._with_sizes(result)
            elif 0 in shape_of(result) and not is_constant(result):
                result = constant(np.zeros(shape_of(result), dtype_of(result)))
            scope.values[name] = result
        if len([name for name in node.output if name]) > len(results):
            raise CannotConvert(f"its output {node.output[len(results)]!r} is not computed")


def has_converter(node: NodeProto) -> bool:
    """Whether there is a converter for a node's operator, ours or TVM's."""
    converters.load_all()
    return (node.domain, node.op_type) in CONVERTERS | DYNAMIC or tvm_converters.knows(node)

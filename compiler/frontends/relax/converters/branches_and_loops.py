"""If, Loop and Scan as control flow of the compiled program: only the chosen branch runs, and a loop ends early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import GraphProto, TensorProto, helper
from tvm import relax

from edgec.compiler.errors import InternalError, ModelError
from edgec.compiler.frontends.relax.amounts import as_tensor
from edgec.compiler.frontends.relax.builder import Expr, constant
from edgec.compiler.frontends.relax.converters.registry import (
    CannotConvert,
    Node,
    converts_dynamic,
    dtype_of,
    reshaped,
)
from edgec.compiler.frontends.relax.converters.slicing import sliced
from edgec.compiler.frontends.relax.dims import cast_to, dims_of, fresh, is_same
from edgec.compiler.frontends.relax.lists import NO_TENSOR, Absent, RuntimeList, TensorList
from edgec.compiler.frontends.relax.parts import (
    Argument,
    Part,
    Value,
    argument_of,
    failing_part,
    runtime_list,
)
from edgec.compiler.frontends.relax.runtime_lists import joined
from edgec.compiler.graph.control import Branch, Repeat, call
from edgec.compiler.kernels.dynamic import reversed_along

FOREVER = 1 << 62  # iterations of a loop without a limit
INT64, BOOL = Argument("int64", ()), Argument("bool", ())
MOST_ROUNDS = 16  # of looking for sizes that change from one iteration to the next; each finds one at least


@converts_dynamic("If")
def _if(node: Node) -> list[Value]:
    graphs = [node.attrs["then_branch"], node.attrs["else_branch"]]
    return branch(node, node.input(0), graphs)


def branch(node: Node, condition: Expr, graphs: Sequence[GraphProto]) -> list[Value]:
    """The results of one of two graphs, chosen when the model runs."""
    parts = _both(node, graphs)
    sources: list[Expr] = []
    types: list[Expr] = []
    reads = []
    for part in parts:
        for source, kind in zip(part.frame.sources, part.frame.types, strict=True):
            if not any(source.same_as(one) for one in sources):
                sources.append(source)
                types.append(kind)
        reads.append(tuple(_place(sources, source) for source in part.frame.sources))
    results = [_common(a, b, parts) for a, b in zip(parts[0].results, parts[1].results, strict=True)]
    control = Branch(
        f"{parts[0].name}.if",
        tuple(types),
        (parts[0].name, parts[1].name),
        (reads[0], reads[1]),
        relax.TupleType([one.type for one in results]),
    )
    _register(node, control, parts)
    choice = node.emit(reshaped(condition, []))
    called = node.emit(call(control, [choice, *sources]))
    return [_taken(node, called, number, one) for number, one in enumerate(results)]


def _both(node: Node, graphs: Sequence[GraphProto]) -> list[Part]:
    """The parts of both branches; one that fails in every run is replaced by an error of the run."""
    parts: list[Part | None] = []
    reasons: list[str] = []
    for graph in graphs:
        try:
            parts.append(node.scope.part(graph, []))
        except (CannotConvert, InternalError, ModelError):
            why = node.scope.fails(graph)
            if why is None:
                raise
            parts.append(None)
            reasons.append(why)
    made = [part for part in parts if part is not None]
    if not made:
        raise CannotConvert(f"both of its branches fail for these shapes of the inputs: {reasons[0]}")
    return [part or failing_part(made[0], f"{made[0].name}.misfit", reasons[0]) for part in parts]


def _place(sources: Sequence[Expr], source: Expr) -> int:
    return next(n for n, one in enumerate(sources) if one.same_as(source))


def _register(node: Node, control: Branch | Repeat, parts: Sequence[Part]) -> None:
    importer = node.scope.importer
    importer.modules.update({part.name: part.mod for part in parts})
    importer.control.append(control)


def _common(a: Value, b: Value, parts: Sequence[Part]) -> Argument:
    """What is known of a result, whichever branch made it."""
    if isinstance(a, Absent) or isinstance(b, Absent):  # that branch fails
        value, part = (a, parts[0]) if isinstance(b, Absent) else (b, parts[1])
        if isinstance(value, RuntimeList):
            return Argument(value.dtype, None, value.rank)
        return Argument(dtype_of(value), tuple(part.frame.outside(one) for one in dims_of(value)))
    if isinstance(a, RuntimeList) and isinstance(b, RuntimeList):
        return Argument(a.dtype, None, max(a.rank, b.rank))
    if isinstance(a, NO_TENSOR) or isinstance(b, NO_TENSOR):
        raise CannotConvert("one of its branches returns a sequence, the other a tensor")
    if dtype_of(a) != dtype_of(b):
        raise CannotConvert("its branches return different types")
    left = [parts[0].frame.outside(one) for one in dims_of(a)]
    right = [parts[1].frame.outside(one) for one in dims_of(b)]
    if len(left) != len(right):
        raise CannotConvert("its branches return tensors of different ranks")
    sizes = (
        p if p is not None and q is not None and is_same(p, q) else None
        for p, q in zip(left, right, strict=True)
    )
    return Argument(dtype_of(a), tuple(sizes))


def _taken(node: Node, called: Expr, position: int, kind: Argument) -> Value:
    """A field of what control flow returns, as a value of the caller."""
    value = node.emit(relax.TupleGetItem(called, position))
    if kind.sizes is None:
        return RuntimeList(value, kind.dtype, kind.rank)
    if all(isinstance(one, int) for one in kind.sizes):
        return value
    return cast_to(node.builder, value, [fresh("r") if s is None else s for s in kind.sizes], kind.dtype)


@converts_dynamic("Loop")
def _loop(node: Node) -> list[Value]:
    body = node.attrs["body"]
    state = [node.input(i) for i in range(2, len(node.inputs))]
    limit = node.emit(_scalar(node, 0, "int64")) if node.has(0) else constant(FOREVER, "int64")
    going = node.emit(_scalar(node, 1, "bool")) if node.has(1) else constant(True, "bool")
    collected = len(node.outputs) - len(state)
    results, rows = repeat(node, body, [INT64, BOOL], state, limit, going, collected)
    return [*results, *(joined(node, one, kind, 0) for one, kind in rows)]


def _scalar(node: Node, position: int, dtype: str) -> Expr:
    value = node.input(position)
    value = value if dtype_of(value) == dtype else node.emit(relax.op.astype(value, dtype))
    return reshaped(value, []) if dims_of(value) else value


def repeat(
    node: Node,
    body: GraphProto,
    first: Sequence[Argument],
    state: Sequence[Value],
    limit: Expr,
    going: Expr,
    collected: int,
) -> tuple[list[Value], list[tuple[RuntimeList, Argument]]]:
    """A loop.

    Args:
        node: the node.
        body: takes the iteration's number, the condition and the state; returns the condition, the state, and rows.
        first: the arguments before the state.
        state: its first value.
        limit: the number of iterations at most.
        going: the condition for the first iteration.
        collected: how many outputs collect rows.

    Returns:
        the last state, and a list for each collected output with what is known of its rows.
    """
    builder = node.builder
    state = [runtime_list(builder, s) if isinstance(s, TensorList) else s for s in state]
    arguments = [argument_of(value) for value in state]
    for _ in range(MOST_ROUNDS):
        part = node.scope.part(body, [*first, *arguments])
        results = part.results[1 : 1 + len(state)]
        wider = [_widened(part, given, result) for given, result in zip(arguments, results, strict=True)]
        if wider == arguments:
            break
        arguments = wider
    else:
        raise CannotConvert("the sizes of its state change in too many ways")
    kinds = tuple(argument.type for argument in arguments)
    control = Repeat(f"{part.name}.loop", part.name, kinds, part.reads, collected)
    _register(node, control, [part])
    passed = [value.value if isinstance(value, RuntimeList) else value for value in state]
    called = node.emit(call(control, [limit, going, *passed, *part.frame.sources]))
    last = [_taken(node, called, 2 + n, argument) for n, argument in enumerate(arguments)]
    rows = []
    for number, row in enumerate(part.results[1 + len(state) :]):
        value = node.emit(relax.TupleGetItem(called, 2 + len(state) + number))
        sizes = tuple(part.frame.outside(one) for one in dims_of(row))
        rows.append((RuntimeList(value, dtype_of(row), len(sizes)), Argument(dtype_of(row), sizes)))
    return last, rows


def _widened(part: Part, given: Argument, result: Value) -> Argument:
    """The argument with those sizes open that an iteration changes."""
    if given.sizes is None:
        if not isinstance(result, RuntimeList):
            raise CannotConvert("its state is a sequence at first and a tensor later")
        return Argument(result.dtype if result.rank >= 0 else given.dtype, None, max(given.rank, result.rank))
    if isinstance(result, NO_TENSOR):
        raise CannotConvert("its state is a tensor at first and a sequence later")
    if dtype_of(result) != given.dtype:
        raise CannotConvert("the type of its state changes")
    sizes = dims_of(result)
    if len(sizes) != len(given.sizes):
        raise CannotConvert("the rank of its state changes from one iteration to the next")
    after = [part.frame.outside(one) for one in sizes]
    kept = [
        old if old is not None and new is not None and is_same(old, new) else None
        for old, new in zip(given.sizes, after, strict=True)
    ]
    return Argument(given.dtype, tuple(kept))


@converts_dynamic("Scan")
def _scan(node: Node) -> list[Value]:
    """A loop over the slices of its inputs."""
    if node.opset < 9:
        return _scan_of_batches(node)
    body, scanned = node.attrs["body"], int(node.attrs["num_scan_inputs"])
    states = len(node.inputs) - scanned
    axes = [int(a) for a in node.attrs.get("scan_input_axes") or [0] * scanned]
    backwards = [bool(d) for d in node.attrs.get("scan_input_directions") or [0] * scanned]
    given = [node.input(states + i) for i in range(scanned)]
    steps = dims_of(given[0])[axes[0]]
    count = as_tensor(node, [steps], [])
    names = {f"edgec.scan.{i}": x for i, x in enumerate(given)} | {"edgec.scan.count": count}
    loop = _loop_body(body, states, axes, backwards)
    inner = replace(node, scope=node.scope.with_values(names))
    state, rows = repeat(
        inner, loop, [INT64, BOOL], [node.input(i) for i in range(states)], count, constant(True, "bool"),
        len(node.outputs) - states,
    )  # fmt: skip
    out_axes = [int(a) for a in node.attrs.get("scan_output_axes") or [0] * len(rows)]
    flipped = [bool(d) for d in node.attrs.get("scan_output_directions") or [0] * len(rows)]
    stacked = []
    for (one, kind), axis, flip in zip(rows, out_axes, flipped, strict=True):
        made = joined(node, one, kind, axis)
        sizes = dims_of(made)
        axis = axis % len(sizes)
        sizes[axis] = steps
        made = cast_to(node.builder, made, sizes)
        stacked.append(node.builder.emit_te(reversed_along, made, axis) if flip else made)
    return [*state, *stacked]


def _scan_of_batches(node: Node) -> list[Value]:
    """Scan as it was in operator set 8: one for each row of a batch, along the second axis of its inputs."""
    if node.has(0):
        raise CannotConvert("the lengths of its sequences are given, which Scan of opset 8 alone has")
    given = [node.input(i) for i in range(1, len(node.inputs))]
    batch = dims_of(given[0])[0]
    if not isinstance(batch, int):
        raise CannotConvert("its number of sequences is known only at run time")
    attrs = {k: v for k, v in node.attrs.items() if k != "directions"}
    attrs["scan_input_directions"] = node.attrs.get("directions")
    rows = []
    for row in range(batch):
        parts = [_row(node, x, row) for x in given]
        rows.append(_scan(replace(node, opset=9, inputs=parts, attrs=attrs)))
    stacked = []
    for results in zip(*rows, strict=True):
        wide = [node.emit(relax.op.expand_dims(one, 0)) for one in results]
        stacked.append(node.emit(relax.op.concat(wide, 0)) if batch > 1 else wide[0])
    return stacked


def _row(node: Node, x: Expr, row: int) -> Expr:
    part = node.emit(sliced(node, x, {0: slice(row, row + 1)}))
    return node.emit(relax.op.squeeze(part, [0]))


def _loop_body(body: GraphProto, states: int, axes: Sequence[int], backwards: Sequence[bool]) -> GraphProto:
    """The body of a Loop that does what a Scan's does: it takes its slices by the number of the iteration."""
    loop = GraphProto()
    loop.CopyFrom(body)
    number, going = "edgec.scan.step", "edgec.scan.going"
    slices = list(loop.input)[states:]
    nodes = [helper.make_node("Constant", [], ["edgec.scan.one"], value_int=1)]
    nodes += [
        helper.make_node("Sub", ["edgec.scan.count", "edgec.scan.one"], ["edgec.scan.end"]),
        helper.make_node("Sub", ["edgec.scan.end", number], ["edgec.scan.back"]),
    ]
    for i, (value, axis, back) in enumerate(zip(slices, axes, backwards, strict=True)):
        place = "edgec.scan.back" if back else number
        nodes.append(helper.make_node("Gather", [f"edgec.scan.{i}", place], [value.name], axis=axis))
    nodes += list(loop.node)
    inputs = [
        helper.make_tensor_value_info(number, TensorProto.INT64, []),
        helper.make_tensor_value_info(going, TensorProto.BOOL, []),
        *list(loop.input)[:states],
    ]
    outputs = [helper.make_tensor_value_info(going, TensorProto.BOOL, []), *loop.output]
    return helper.make_graph(nodes, loop.name or "body", inputs, outputs, list(loop.initializer))

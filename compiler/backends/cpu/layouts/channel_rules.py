"""Operators that move whole channels of blocked tensors: concatenation, slices, shuffles, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

from tvm import relax
from tvm.ir import Call

from edgec.compiler.backends.cpu import relayout
from edgec.compiler.backends.cpu.layouts.registry import rule
from edgec.compiler.backends.cpu.layouts.value import Plan, Value
from edgec.compiler.backends.cpu.specs import ChannelsSpec, Run
from edgec.compiler.backends.cpu.templates import channels
from edgec.compiler.graph.rewrite import Expr, array_of, dtype_of, shape_of

FLOATS = ("float32", "float16")
MOST_RUNS = 64  # of channels that a kernel picks


@rule("concat")
def _concat(plan: Plan, call: Call) -> Value | None:
    fields = list(call.args[0].fields) if hasattr(call.args[0], "fields") else []
    shape = shape_of(call)
    if len(shape) != 4 or int(call.attrs.axis) % 4 != 1 or not any(plan.is_blocked(f) for f in fields):
        return None
    counts = tuple(shape_of(f)[1] for f in fields)
    args = [plan.blocked(f) for f in fields]
    if dtype_of(call) in FLOATS:
        runs = [Run(number, 0, count) for number, count in enumerate(counts)]
        return _moved(plan, args, counts, runs, shape[2:])
    blocked = (shape[0], -(-shape[1] // plan.lanes), shape[2], shape[3], plan.lanes)
    return Value(None, plan.call(relayout.concat(counts, blocked, dtype_of(call)), "concat", *args), shape[1])


def _moved(
    plan: Plan, args: Sequence[Expr], counts: Sequence[int], runs: Sequence[Run], size: Sequence[int]
) -> Value:
    """Channels of blocked tensors in another order; an operand that is given twice is read as one."""
    places = [next(i for i, other in enumerate(args) if other.same_as(arg)) for arg in args]
    order = list(dict.fromkeys(places[run.operand] for run in runs if run.operand >= 0))
    renumbered = [
        replace(run, operand=order.index(places[run.operand])) if run.operand >= 0 else run for run in runs
    ]
    spec = ChannelsSpec(
        shape_of(args[0])[0],
        tuple(counts[i] for i in order),
        (int(size[0]), int(size[1])),
        tuple(astuple(run) for run in renumbered),
        plan.lanes,
        dtype_of(args[0]),
    )
    made = plan.call(channels.channels(spec), "channels", *[args[i] for i in order])
    return Value(None, made, spec.out_channels)


@rule("strided_slice")
def _strided_slice(plan: Plan, call: Call) -> Value | None:
    """A slice along the channels alone, or along rows and columns alone."""
    shape, source = shape_of(call), call.args[0]
    if len(shape) != 4 or not plan.is_blocked(source) or dtype_of(call) not in FLOATS:
        return None
    whole = shape_of(source)
    if shape[:2] == whole[:2]:
        return _slice_of_pixels(plan, call)
    first, step = _slice_of_channels(call)
    if first is None or shape[0] != whole[0] or shape[2:] != whole[2:] or step < 1:
        return None
    run = Run(0, first, shape[1], step, shape[1]) if step > 1 else Run(0, first, shape[1])
    return _moved(plan, [plan.blocked(source)], [whole[1]], [run], whole[2:])


def _parts(call: Call) -> list[list[int]]:
    """Axes, begins, ends and, where given, steps of a slice."""
    return [
        [int(value) for value in getattr(part, "values", getattr(part, "fields", ()))]
        for part in call.args[1:]
    ]


def _slice_of_pixels(plan: Plan, call: Call) -> Value | None:
    axes, begin, end, *rest = _parts(call)
    step = rest[0] if rest else [1] * len(axes)
    inner = [at for at, axis in enumerate(axes) if axis % 4 in (2, 3)]
    if not inner:
        return None
    numbers = [[int(part[at]) for at in inner] for part in (begin, end, step)]
    made = relax.op.strided_slice(plan.blocked(call.args[0]), [axes[at] % 4 for at in inner], *numbers)
    return Value(None, plan.emit(made), shape_of(call)[1])


def _slice_of_channels(call: Call) -> tuple[int | None, int]:
    """First channel and step of a slice; None for one along another axis."""
    parts = _parts(call)
    axes, begin = parts[0], parts[1]
    step = parts[3] if len(parts) > 3 else [1] * len(axes)
    whole = shape_of(call.args[0])
    if any(axis % 4 != 1 and (b or s != 1) for axis, b, s in zip(axes, begin, step, strict=True)):
        return None, 1
    at = next((i for i, axis in enumerate(axes) if axis % 4 == 1), None)
    if at is None:
        return None, 1
    first = begin[at] + whole[1] if begin[at] < 0 else begin[at]
    return min(max(first, 0), whole[1]), step[at]


@rule("take")
def _take(plan: Plan, call: Call) -> Value | None:
    """Channels in a constant order."""
    order, source = array_of(call.args[1]), call.args[0]
    if order is None or order.ndim != 1 or call.attrs.axis is None or dtype_of(call) not in FLOATS:
        return None
    whole = shape_of(source)
    if len(whole) != 4 or int(call.attrs.axis) % 4 != 1 or not plan.is_blocked(source):
        return None
    runs = _runs([int(c) for c in order])
    inside = all(0 <= int(c) < whole[1] for c in order)
    if not inside or len(runs) > MOST_RUNS:
        return None
    return _moved(plan, [plan.blocked(source)], [whole[1]], runs, whole[2:])


def _runs(order: Sequence[int]) -> list[Run]:
    """Constant indices as few runs: a shuffle of groups is one, else neighbours are together."""
    for wrap in range(2, len(order) // 2 + 1):
        run = Run(0, order[0], len(order), order[1] - order[0], wrap)
        if (
            len(order) % wrap == 0
            and run.step > 0
            and [run.channel(k) for k in range(run.count)] == list(order)
        ):
            return [run]
    found: list[Run] = []
    for c in order:
        last = found[-1] if found else None
        if last and c == last.first + last.count:
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(Run(0, c, 1))
    return found


@rule("nn.pad")
def _pad(plan: Plan, call: Call) -> Value | None:
    """Zeros around the channels, any constant around rows and columns."""
    source, attrs = call.args[0], call.attrs
    shape = shape_of(source)
    if len(shape) != 4 or not plan.is_blocked(source) or dtype_of(call) not in FLOATS:
        return None
    widths = [int(width) for width in attrs.pad_width]
    value = float(attrs.pad_value)
    plain = attrs.pad_mode == "constant" and min(widths) >= 0 and widths[:2] == [0, 0]
    if not plain or (any(widths[2:4]) and value):
        return None
    data = plan.blocked(source)
    if any(widths[4:]):
        data = plan.emit(relax.op.nn.pad(data, [0, 0, 0, 0, *widths[4:], 0, 0], "constant", value))
    if not any(widths[2:4]):
        return Value(None, data, shape[1])
    before, after = widths[2:4]
    runs = [Run(-1, 0, before), Run(0, 0, shape[1]), Run(-1, 0, after)]
    return _moved(plan, [data], [shape[1]], [run for run in runs if run.count], shape_of(data)[2:4])

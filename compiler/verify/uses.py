"""What operators require of their operands' values, by operator: positions with requirements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
from onnx import NodeProto

from edgec.compiler.verify.demands import Array, Demand, Graph, Shape, attribute, exactly

Use: TypeAlias = Iterable[tuple[int, Demand | None]]
USES: dict[str, Callable[[NodeProto, Graph], Use]] = {}


def uses(*names: str) -> Callable[[Callable[[NodeProto, Graph], Use]], Callable[[NodeProto, Graph], Use]]:
    """Register what operators require of their operands."""

    def register(function: Callable[[NodeProto, Graph], Use]) -> Callable[[NodeProto, Graph], Use]:
        USES.update(dict.fromkeys(names, function))
        return function

    return register


def _fixed(*demands: tuple[int, Demand]) -> Callable[[NodeProto, Graph], Use]:
    return lambda _node, _graph: demands


POSITIVE, SHARE = Demand(low=0.05), Demand(low=0.0, high=1.0)
NEW_SIZE, FEW, TRUE = Demand(low=1, high=3), Demand(low=1, high=5), exactly(np.array(True))
USES |= {
    "Log": _fixed((0, POSITIVE)),
    "Sqrt": _fixed((0, Demand(low=0.0))),
    "Acosh": _fixed((0, Demand(low=1.05))),
    **dict.fromkeys(("Acos", "Asin", "Atanh"), _fixed((0, Demand(low=-0.95, high=0.95)))),
    "BatchNormalization": _fixed((4, POSITIVE)),
    "Bernoulli": _fixed((0, SHARE)),
    "ConstantOfShape": _fixed((0, NEW_SIZE)),
    "DequantizeLinear": _fixed((1, Demand(low=0.01, high=0.1))),
    "Div": _fixed((1, Demand(nonzero=True))),
    "Mod": _fixed((1, Demand(nonzero=True))),
    "Dropout": _fixed((1, Demand(low=0.0, high=0.9)), (2, exactly(np.array(False)))),
    "GridSample": _fixed((1, Demand(low=-1.1, high=1.1))),
    "Inverse": _fixed((0, Demand(nonzero=True))),  # a matrix of zeros has no inverse
    "Loop": _fixed((0, FEW), (1, TRUE)),
    "QuantizeLinear": _fixed((1, Demand(low=0.01, high=0.1))),
    "Range": _fixed((0, Demand(low=0, high=2)), (1, Demand(low=3, high=9)), (2, Demand(low=1, high=2))),
    "Tile": _fixed((1, Demand(low=1, high=2))),
    "Trilu": _fixed((1, Demand(low=-1, high=1))),
    **dict.fromkeys(("HannWindow", "HammingWindow", "BlackmanWindow"), _fixed((0, Demand(low=2, high=16)))),
}


def _size(graph: Graph, name: str, axis: int) -> int | None:
    shape = graph.shape(name)
    return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None


def _index(size: int | None) -> Demand | None:
    """Positions along an axis; negative ones count from the end."""
    return None if size is None else Demand(low=0, high=max(size - 1, 0), least=-size)


@uses("Gather", "GatherElements", "ArrayFeatureExtractor")
def _gather(node: NodeProto, graph: Graph) -> Use:
    axis = -1 if node.op_type == "ArrayFeatureExtractor" else int(attribute(node, "axis", 0))
    demand = _index(_size(graph, node.input[0], axis))
    if demand is not None and node.op_type == "ArrayFeatureExtractor":
        demand = Demand(demand.low, demand.high)
    yield 1, demand


@uses("EmbedLayerNormalization")
def _embedding(node: NodeProto, graph: Graph) -> Use:
    for position, table in ((0, 2), (1, 4)):
        size = _size(graph, node.input[table], 0) if len(node.input) > table and node.input[table] else None
        yield position, None if size is None else Demand(0, size - 1)


@uses("GroupQueryAttention")
def _cache_lengths(node: NodeProto, graph: Graph) -> Use:
    """How many keys there are with the new ones, less 1 for each sequence, and the most of any sequence."""
    query, past = graph.shape(node.input[0]), graph.shape(node.input[3])
    if query is not None and len(query) == 3:
        keys = query[1] + (past[2] if past and len(past) == 4 else 0)
        yield 5, Demand(low=keys - 1, high=keys - 1)
        yield 6, Demand(low=keys, high=keys)


@uses("RotaryEmbedding")
def _positions(node: NodeProto, graph: Graph) -> Use:
    """The standard's takes positions last, ONNX Runtime's after the input."""
    position, table = (1, 2) if node.domain == "com.microsoft" else (3, 1)
    size = _size(graph, node.input[table], 0) if len(node.input) > table else None
    yield position, None if size is None else Demand(0, size - 1)


@uses("GatherND")
def _gather_nd(node: NodeProto, graph: Graph) -> Use:
    yield from _tuples(node, graph, int(attribute(node, "batch_dims", 0)), distinct=False)


@uses("ScatterND")
def _scatter_nd(node: NodeProto, graph: Graph) -> Use:
    yield from _tuples(node, graph, 0, distinct=True)


def _tuples(node: NodeProto, graph: Graph, skipped: int, *, distinct: bool) -> Use:
    """Indices whose last axis holds a position along each of the data's first axes."""
    data, indices = graph.shape(node.input[0]), graph.shape(node.input[1])
    if data is None or not indices:
        return
    sizes = data[skipped : skipped + indices[-1]]
    rows, every = int(np.prod(indices[:-1], dtype=np.int64)), int(np.prod(sizes, dtype=np.int64))
    if not every or not sizes:
        return

    def make(rng: np.random.Generator) -> Array:
        few = distinct and rows <= every <= 1 << 20
        flat = rng.permutation(every)[:rows] if few else rng.integers(0, every, rows)
        return np.stack(np.unravel_index(flat, sizes), -1).reshape(indices)

    yield 1, Demand(low=0, high=min(sizes) - 1, make=make)


@uses("ScatterElements", "Scatter")
def _scatter(node: NodeProto, graph: Graph) -> Use:
    """Distinct positions along the axis: what two updates of one element give is open."""
    data, indices = graph.shape(node.input[0]), graph.shape(node.input[1])
    axis = int(attribute(node, "axis", 0))
    if data is None or indices is None or not data or not data[axis]:
        return
    size, count = data[axis], indices[axis]

    def make(rng: np.random.Generator) -> Array:
        wide = [*indices]
        wide[axis] = size
        if count > size or int(np.prod(wide, dtype=np.int64)) > 1 << 24:
            return np.asarray(rng.integers(0, size, indices))
        order: Array = np.argsort(rng.random(wide), axis)
        return np.asarray(np.take(order, np.arange(count), axis))

    yield 1, Demand(low=0, high=size - 1, make=make)


@uses("TensorScatter")
def _tensor_scatter(node: NodeProto, graph: Graph) -> Use:
    axis = int(attribute(node, "axis", -2))
    room, new = _size(graph, node.input[0], axis), _size(graph, node.input[1], axis)
    if room is not None and new is not None:
        yield 2, Demand(low=0, high=max(room - new, 0))


@uses("MaxUnpool")
def _max_unpool(node: NodeProto, graph: Graph) -> Use:
    shape, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    if shape is not None:
        count = int(np.prod(shape, dtype=np.int64))
        room = max(count, int(np.prod(out, dtype=np.int64)) if out else count)

        def make(rng: np.random.Generator) -> Array:
            return np.asarray(np.sort(rng.permutation(room)[:count]).reshape(shape))

        yield 1, Demand(0, room - 1, make=make)


@uses("LSTM", "GRU", "RNN")
def _recurrent(node: NodeProto, graph: Graph) -> Use:
    steps = _size(graph, node.input[0], 1 if attribute(node, "layout", 0) else 0)
    if steps:
        yield 4, Demand(low=1, high=steps)


@uses("ReverseSequence")
def _reverse(node: NodeProto, graph: Graph) -> Use:
    steps = _size(graph, node.input[0], int(attribute(node, "time_axis", 0)))
    if steps is not None:
        yield 1, Demand(low=min(1, steps), high=steps)


@uses("Attention", "MultiHeadAttention")
def _attention(node: NodeProto, graph: Graph) -> Use:
    keys = _size(graph, node.input[1], -2) if len(node.input) > 1 and node.domain == "" else None
    if keys:
        yield 6, Demand(low=1, high=keys)


@uses("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def _loss(node: NodeProto, graph: Graph) -> Use:
    classes = _size(graph, node.input[0], 1)
    if classes:
        yield 1, Demand(low=0, high=classes - 1)


@uses("BitShift")
def _shift(node: NodeProto, graph: Graph) -> Use:
    yield 1, Demand(low=0, high=7)


@uses("Pow")
def _power(node: NodeProto, graph: Graph) -> Use:
    """Small exponents of integers; of a negative number, a fractional power is NaN."""
    exponent = graph.constant(node.input[1])
    if exponent is None:
        yield 1, Demand(low=0, high=3)
        whole = not graph.is_float(node.input[1])
    else:
        whole = bool((exponent == np.round(exponent)).all())
    if not whole and graph.is_float(node.input[0]):
        yield 0, POSITIVE


@uses("Clip")
def _clip(node: NodeProto, graph: Graph) -> Use:
    yield 1, Demand(low=-1.0, high=0.0) if graph.is_float(node.input[0]) else Demand(low=0, high=3)
    yield 2, Demand(low=0.2, high=1.5) if graph.is_float(node.input[0]) else Demand(low=5, high=9)


@uses("TopK")
def _top_k(node: NodeProto, graph: Graph) -> Use:
    size = _size(graph, node.input[0], int(attribute(node, "axis", -1)))
    yield 1, Demand(low=1, high=size) if size else None


@uses("NonMaxSuppression")
def _suppression(node: NodeProto, graph: Graph) -> Use:
    boxes = graph.shape(node.input[0])

    def make(rng: np.random.Generator) -> Array:
        assert boxes is not None
        centres, sizes = rng.uniform(0.2, 0.8, (*boxes[:-1], 2)), rng.uniform(0.05, 0.4, (*boxes[:-1], 2))
        if attribute(node, "center_point_box", 0):
            return np.concatenate([centres, sizes], -1)
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)

    yield 0, Demand(low=0.0, high=1.0, make=make if boxes and boxes[-1] == 4 else None)
    yield 1, SHARE
    yield 2, Demand(low=3, high=10)
    yield 3, Demand(low=0.3, high=0.7)
    yield 4, Demand(low=0.0, high=0.4)


@uses("RoiAlign", "MaxRoiPool")
def _regions(node: NodeProto, graph: Graph) -> Use:
    data, rois = graph.shape(node.input[0]), graph.shape(node.input[1])
    if data is None or rois is None or len(data) != 4:
        return
    scale = float(attribute(node, "spatial_scale", 1.0)) or 1.0
    high, wide = data[2] / scale, data[3] / scale

    def make(rng: np.random.Generator) -> Array:
        ends = np.sort(rng.random((rois[0], 2, 2)), 1) * np.array([wide, high])
        boxes = ends.reshape(rois[0], 4)
        if rois[1] == 5:
            return np.concatenate([rng.integers(0, data[0], (rois[0], 1)).astype(float), boxes], 1)
        return np.asarray(boxes)

    yield 1, Demand(low=0.0, make=make)
    yield 2, Demand(low=0, high=max(data[0] - 1, 0))


def shape_with(elements: int, like: Shape | None, rank: int) -> Array:
    """A shape of `rank` axes for so many elements: `like` if it has that rank."""
    if like is not None and len(like) == rank:
        return np.array(like, np.int64)
    return np.array([elements, *[1] * (rank - 1)][:rank], np.int64)


@uses("Reshape")
def _reshape(node: NodeProto, graph: Graph) -> Use:
    data, length, out = graph.shape(node.input[0]), graph.shape(node.input[1]), graph.shape(node.output[0])
    if data is not None and length:
        target = out if out is not None else data
        yield 1, exactly(shape_with(int(np.prod(data, dtype=np.int64)), target, length[0]))


@uses("Expand")
def _expand(node: NodeProto, graph: Graph) -> Use:
    data, length, out = graph.shape(node.input[0]), graph.shape(node.input[1]), graph.shape(node.output[0])
    if length and out is not None:
        yield 1, exactly(np.array(out[-length[0] :], np.int64))
    elif length and data is not None:
        wanted = [*[2] * max(length[0] - len(data), 0), *(3 if n == 1 else n for n in data)]
        yield 1, exactly(np.array(wanted[-length[0] :] if length[0] else [], np.int64))


def _listed(graph: Graph, node: NodeProto, position: int, rank: int) -> Iterator[int]:
    """The axes that an operand lists: all if it is absent, the first ones if it comes in at run time."""
    given = node.input[position] if len(node.input) > position else ""
    constant = graph.constant(given) if given else None
    if constant is not None:
        yield from (int(axis) % max(rank, 1) for axis in constant.reshape(-1))
    else:
        length = graph.shape(given) if given else None
        yield from range(length[0] if length else rank)


@uses("Slice")
def _slice(node: NodeProto, graph: Graph) -> Use:
    data = graph.shape(node.input[0])
    if data is None:
        return
    axes = [axis for axis in _listed(graph, node, 3, len(data)) if axis < len(data)]
    if len(node.input) < 4 or not node.input[3]:  # the first axes, as many as have a start
        length = graph.shape(node.input[1]) or graph.shape(node.input[2])
        axes = axes[: length[0]] if length else axes
    steps = graph.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else None
    back = [steps is not None and steps.reshape(-1)[k] < 0 for k in range(len(axes))]
    sizes = [data[axis] for axis in axes]
    first = np.array([n - 1 if b else int(n > 2) for n, b in zip(sizes, back, strict=True)], np.int64)
    last = np.array([-n - 1 if b else n for n, b in zip(sizes, back, strict=True)], np.int64)
    yield 1, exactly(first)
    yield 2, exactly(last)
    yield 3, exactly(np.arange(len(axes)))
    yield 4, exactly(np.ones(len(axes), np.int64))


@uses("Pad")
def _pad(node: NodeProto, graph: Graph) -> Use:
    data, length = graph.shape(node.input[0]), graph.shape(node.input[1]) if len(node.input) > 1 else None
    smallest = min((n for n in data if n > 0), default=1) if data else 1
    reflecting = attribute(node, "mode", b"constant") == b"reflect"
    yield 1, Demand(low=0, high=min(2, smallest - 1) if reflecting else 2)
    if data is not None and length:
        yield 3, exactly(np.arange(length[0] // 2))


@uses("Squeeze", "Unsqueeze")
def _axes(node: NodeProto, graph: Graph) -> Use:
    data, length = graph.shape(node.input[0]), graph.shape(node.input[1]) if len(node.input) > 1 else None
    if data is None or length is None:
        return
    count = length[0] if length else 1
    single = [axis for axis, n in enumerate(data) if n == 1]
    chosen = single[:count] if node.op_type == "Squeeze" else list(range(count))
    if len(chosen) == count:
        yield 1, exactly(np.array(chosen, np.int64).reshape(length))


@uses("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2")
@uses("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "CumSum", "CumProd")
def _reduced_axes(node: NodeProto, graph: Graph) -> Use:
    """Distinct axes."""
    data, length = graph.shape(node.input[0]), graph.shape(node.input[1]) if len(node.input) > 1 else None
    if data and length is not None:
        last = np.arange(len(data))[-(length[0] if length else 1) :]
        yield 1, exactly(last.reshape(length) if last.size == np.prod(length) else last[-1:])


@uses("Split", "SplitToSequence")
def _split(node: NodeProto, graph: Graph) -> Use:
    size = _size(graph, node.input[0], int(attribute(node, "axis", 0)))
    length = graph.shape(node.input[1]) if len(node.input) > 1 else None
    if size is None or length is None:
        return
    if not length:
        yield 1, Demand(low=1, high=max(size, 1))
    elif length[0]:
        parts = np.full(length[0], size // length[0])
        parts[-1] += size - parts.sum()
        yield 1, exactly(parts)


@uses("Resize", "Upsample")
def _resize(node: NodeProto, graph: Graph) -> Use:
    data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    if data is None:
        return
    axes = [int(axis) % len(data) for axis in attribute(node, "axes", range(len(data)))]
    grown = [data[axis] if axis < 2 and len(data) > 2 else 2 * data[axis] for axis in axes]
    sizes = [out[axis] for axis in axes] if out is not None else grown
    scales = np.array([new / max(data[axis], 1) for new, axis in zip(sizes, axes, strict=True)])
    if node.op_type == "Upsample":
        yield 1, exactly(scales)
        return
    yield 1, exactly(np.array([*[0.1] * len(axes), *[0.9] * len(axes)]))
    yield 2, exactly(scales)
    yield 3, exactly(np.array(sizes, np.int64))


@uses("OneHot")
def _one_hot(node: NodeProto, graph: Graph) -> Use:
    out, constant = graph.shape(node.output[0]), graph.constant(node.input[1])
    axis = int(attribute(node, "axis", -1))
    depth = (
        int(constant.reshape(-1)[0]) if constant is not None and constant.size else out[axis] if out else 6
    )
    yield 0, Demand(low=0, high=depth - 1, least=-depth)
    yield 1, exactly(np.full(graph.shape(node.input[1]) or (), depth))


@uses("CenterCropPad", "AffineGrid", "Col2Im")
def _sizes(node: NodeProto, graph: Graph) -> Use:
    data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    length = graph.shape(node.input[1]) if len(node.input) > 1 else None
    if out is not None and length and len(out) >= length[0]:
        yield 1, exactly(np.array(out[-length[0] :], np.int64))
    elif data is not None and length:
        count = length[0]
        wanted = (*data[:1], *[3] * (count - 1)) if node.op_type == "AffineGrid" else data[:count]
        yield 1, exactly(np.array(wanted, np.int64))


@uses("SequenceAt", "SequenceErase", "SequenceInsert")
def _in_sequence(node: NodeProto, graph: Graph) -> Use:
    yield 2 if node.op_type == "SequenceInsert" else 1, Demand(low=0, high=0)


@uses("DFT")
def _transform(node: NodeProto, graph: Graph) -> Use:
    data = graph.shape(node.input[0])
    if data is not None and len(data) > 1:
        yield 1, exactly(np.array(data[-2]))
        yield 2, exactly(np.array(len(data) - 2))


@uses("STFT")
def _short_transform(node: NodeProto, graph: Graph) -> Use:
    samples = _size(graph, node.input[0], 1)
    window = graph.shape(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if samples:
        length = window[0] if window else max(samples // 4, 1)
        yield 1, exactly(np.array(max(length // 2, 1)))
        yield 3, exactly(np.array(length))


@uses("Compress")
def _compress(node: NodeProto, graph: Graph) -> Use:
    length = graph.shape(node.input[1])
    if length:
        yield 1, Demand(make=lambda rng: np.arange(length[0]) % 2 == int(rng.integers(0, min(2, length[0]))))

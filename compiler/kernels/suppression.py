"""Non-maximum suppression: boxes in the order of their scores, without those that overlap a better one too much.

The order of operations of an overlap is ONNX Runtime's, so that both decide alike at the threshold.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, add, counter, function, i64, store
from edgec.compiler.kernels.order import PARALLEL_FROM, Keys, Sorter, kept_value, scan
from edgec.compiler.kernels.tir import Tir, f32

LANES = 8  # chosen boxes that a box is compared with at once
PORTION = 32  # scores that are sorted first, beyond twice the boxes that are wanted
GROWTH = 4  # by which a portion exceeds the one before
CORNERS = ("top", "left", "bottom", "right", "area")


def chosen_boxes(
    symbol: str, sizes: tuple[Tir, Tir, Tir], most: Tir, *, centred: bool, limited: bool
) -> PrimFunc:
    """A function that chooses the boxes of each class of each image.

    Args:
        symbol: its name.
        sizes: how many images, classes and boxes there are.
        most: boxes of a class at most; as many as there are boxes where that is known when the model runs.
        centred: a box is its centre (x, y), width and height instead of two corners (y, x).
        limited: the scores have to exceed a threshold.

    Returns:
        a function of `boxes [images, boxes, 4]`, `scores [images, classes, boxes]`, `limit [1]` (int64), `overlap [1]`
        and `least [1]` with the results `chosen [images, classes, most]` (int32, places of boxes) and
        `counts [images, classes]` (int64).
    """
    images, classes, count = sizes
    given = {
        "boxes": ((images, count, 4), "float32"),
        "scores": ((images, classes, count), "float32"),
        "limit": ((1,), "int64"),
        "overlap": ((1,), "float32"),
        "least": ((1,), "float32"),
    }
    made = {"chosen": ((images, classes, most), "int32"), "counts": ((images, classes), "int64")}

    def body(b: Buffers) -> None:
        rows = b["scores"].shape[0] * b["scores"].shape[1]
        known = all(isinstance(one, int) for one in sizes)
        alone = known and (images * classes == 1 or images * classes * count < PARALLEL_FROM)
        with (T.serial if alone else T.parallel)(0, rows) as row:
            _class(b, row, centred=centred, limited=limited)

    return function(symbol, given, made, body)


def _class(b: Buffers, row: Tir, *, centred: bool, limited: bool) -> None:
    scores, chosen = b["scores"], b["chosen"]
    image, kind = tirx.floordiv(row, scores.shape[1]), tirx.floormod(row, scores.shape[1])
    room = tirx.floordiv(chosen.shape[2] + (LANES - 1), LANES) * LANES
    kept = {name: T.alloc_buffer((room,), "float32") for name in CORNERS}
    found = counter()
    most = tirx.min(b["limit"][0], i64(1) * chosen.shape[2])
    sorter = Sorter.allocate(Keys("float32", descending=True), scores.shape[2])
    low, high = (T.alloc_buffer((1,), sorter.keys.type, scope="local") for _ in range(2))
    store(low, sorter.keys.const(0), 0)
    portion = counter(most * i64(2) + i64(PORTION))
    with T.While(tirx.all(low[0] < sorter.keys.last(), found[0] < most)):
        _collect(b, row, sorter, low, limited=limited)
        sorter.keep_portion(portion[0], high)
        sorter.sort()
        at = counter()
        with T.While(tirx.all(at[0] < sorter.count[0], found[0] < most)):
            place = T.alloc_buffer((1,), "int32", scope="local")
            store(place, sorter.at(at[0]), 0)
            add(at)
            box = _corners(b["boxes"], image, place[0], centred=centred)
            with T.If(_is_free(box, kept, found[0], b["overlap"][0])), T.Then():
                _keep(box, kept, found[0])
                store(chosen, place[0], image, kind, found[0])
                add(found)
        store(low, high[0], 0)
        store(portion, portion[0] * i64(GROWTH), 0)
    store(b["counts"], found[0], image, kind)


def _collect(b: Buffers, row: Tir, sorter: Sorter, low: Tir, *, limited: bool) -> None:
    """Collect the scores of a class from a key on, those above the threshold if there is one."""
    scores, least = b["scores"], b["least"][0]
    image, kind = tirx.floordiv(row, scores.shape[1]), tirx.floormod(row, scores.shape[1])
    store(sorter.count, i64(0), 0)
    store(sorter.begin, i64(0), 0)

    def take(place: Tir) -> None:
        score = scores[image, kind, place]
        key = kept_value(sorter.keys.of(score))
        wanted = key[0] >= low[0]
        sorter.add_if(tirx.all(score > least, wanted) if limited else wanted, key[0], place)

    if limited:
        scan(i64(0), i64(1) * scores.shape[2], lambda i: scores[image, kind, i] > least, take)
    else:
        with T.serial(0, scores.shape[2]) as i:
            take(i)


def _corners(boxes: Tir, image: Tir, place: Tir, *, centred: bool) -> Tir:
    """The corners and the area of a box, in a buffer."""
    made = T.alloc_buffer((len(CORNERS),), "float32", scope="local")
    a, b, c, d = (boxes[image, place, i] for i in range(4))
    if centred:
        half = (c / f32(2.0), d / f32(2.0))
        corners = [b - half[1], a - half[0], b + half[1], a + half[0]]
    else:
        corners = [tirx.min(a, c), tirx.min(b, d), tirx.max(a, c), tirx.max(b, d)]
    for i, corner in enumerate(corners):
        store(made, corner, i)
    store(made, (made[2] - made[0]) * (made[3] - made[1]), 4)
    return made


def _keep(box: Tir, kept: dict[str, Tir], found: Tir) -> None:
    """Add a box to those that are chosen; the rest of its group of lanes holds boxes that overlap nothing."""
    with T.If(tirx.floormod(found, i64(LANES)) == i64(0)), T.Then(), T.serial(0, LANES) as lane:
        for name in CORNERS:
            store(kept[name], f32(0.0), found + lane)
    for i, name in enumerate(CORNERS):
        store(kept[name], box[i], found)


def _is_free(box: Tir, kept: dict[str, Tir], found: Tir, limit: Tir) -> Tir:
    """Whether a box overlaps none of the chosen ones by more than the limit."""
    hits = T.alloc_buffer((1,), "int32", scope="local")
    marks = T.alloc_buffer((LANES,), "int32", scope="local")
    store(hits, tirx.const(0, "int32"), 0)
    group = counter()
    with T.While(tirx.all(hits[0] == tirx.const(0, "int32"), group[0] < found)):
        with T.vectorized(0, LANES) as lane:
            store(marks, _overlaps(box, kept, group[0] + lane, limit).astype("int32"), lane)
        for lane in range(LANES):
            store(hits, hits[0] + marks[lane], 0)
        add(group, LANES)
    return hits[0] == tirx.const(0, "int32")


def _overlaps(box: Tir, kept: dict[str, Tir], at: Tir, limit: Tir) -> Tir:
    top, left, bottom, right, area = (kept[name][at] for name in CORNERS)
    height = tirx.min(box[2], bottom) - tirx.max(box[0], top)
    width = tirx.min(box[3], right) - tirx.max(box[1], left)
    shared = width * height
    union = box[4] + area - shared
    sound = tirx.all(height > f32(0.0), width > f32(0.0), shared > f32(0.0))
    sound = tirx.all(sound, box[4] > f32(0.0), area > f32(0.0), union > f32(0.0))
    return tirx.all(sound, shared / union > limit)


def listed_boxes(symbol: str, sizes: tuple[Tir, Tir], most: Tir, total: Tir) -> PrimFunc:
    """A function from `chosen` and `counts` of `chosen_boxes` to `listed [total, 3]` (int64): image, class and box."""
    images, classes = sizes
    given = {"chosen": ((images, classes, most), "int32"), "counts": ((images, classes), "int64")}

    def body(b: Buffers) -> None:
        at = counter()
        with (
            T.serial(0, b["counts"].shape[0]) as image,
            T.serial(0, b["counts"].shape[1]) as kind,
            T.serial(0, b["counts"][image, kind]) as i,
        ):
            for place, value in enumerate((image, kind, b["chosen"][image, kind, i])):
                store(b["listed"], value.astype("int64"), at[0], place)
            add(at)

    return function(symbol, given, {"listed": ((total, 3), "int64")}, body)

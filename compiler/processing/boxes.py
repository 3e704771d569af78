"""From a detector's outputs to boxes: scores of all anchors, decoding above the threshold, suppression by class.

The kernel computes what `edgec.runtime.processing.boxes` computes, in input pixels; mapping back to the frame stays
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.runtime import card as cards
from edgec.runtime.processing.compiled import DETECT

Tir: TypeAlias = Any  # TVM's expressions and buffers are made at import time and have no static types

_GONE = -1.0  # the score of a box that was kept or suppressed; real ones are 0 or more


class DetectKernel:
    """Writes `edgec_detect(outputs…, [cells,] boxes, scores, classes, count)` for one detector.

    `boxes [max, 4]` (corners in input pixels), `scores [max]`, `classes [max]` and `count [1]` are filled with the
    boxes that remain after suppression, best first; equal scores in the anchors' order.
    """

    def __init__(
        self, spec: cards.BoxOutput, card: cards.ImageInput, shapes: Sequence[tuple[int, ...]]
    ) -> None:
        self.spec, self.card, self.shapes = spec, card, shapes
        self.outputs: list[Tir] = []
        self.cells: Tir = None
        self.anchors, self.classes = self._sizes()
        self.limit = min(spec.max_detections, self.anchors)

    def _sizes(self) -> tuple[int, int]:
        """How many anchors and classes the outputs have."""
        last = self.shapes[0][1:]
        if isinstance(self.spec, cards.Yolov8):
            return last[1], last[0] - 4
        return (last[0], 1) if isinstance(self.spec, cards.Ultraface) else (last[0], last[1] - 5)

    @property
    def gridded(self) -> bool:
        """Whether boxes are relative to grid cells."""
        return isinstance(self.spec, cards.Yolox) and not self.spec.decoded

    @property
    def constants(self) -> int:
        """How many constants of each anchor are a parameter: see `edgec.runtime.processing.boxes.constants_of`."""
        return 3 if self.gridded else 0

    def build(self) -> PrimFunc:
        """The function."""
        with IRBuilder() as builder, T.prim_func():
            T.func_name(DETECT)
            T.func_attr({"global_symbol": DETECT, "tirx.is_scheduled": True, "tirx.noalias": True})
            results = self._parameters()
            # Candidates: as many as there are anchors, at worst.
            found = [
                T.alloc_buffer((self.anchors, 4), "float32"),
                T.alloc_buffer((self.anchors,), "float32"),
                T.alloc_buffer((self.anchors,), "int32"),
            ]
            number = T.alloc_buffer((1,), "int32", scope="local")
            T.buffer_store(number, T.int32(0), [0])
            self._collect(found, number)
            self._suppress(found, number, results)
        return builder.get()

    def _parameters(self) -> list[Tir]:
        """Declare the parameters; returns those for results."""
        for number, shape in enumerate(self.shapes):
            self.outputs.append(T.arg(f"output{number}", T.buffer(shape, "float32")))
        if self.constants:
            self.cells = T.arg("cells", T.buffer((self.anchors, self.constants), "float32"))
        return [
            T.arg("boxes", T.buffer((self.limit, 4), "float32")),
            T.arg("scores", T.buffer((self.limit,), "float32")),
            T.arg("classes", T.buffer((self.limit,), "int32")),
            T.arg("count", T.buffer((1,), "int32")),
        ]

    # ------------------------------------------------------------ scores and boxes

    def class_score(self, anchor: Tir, which: Tir) -> Tir:
        """The score of an anchor for a class."""
        if isinstance(self.spec, cards.Yolov8):
            return self.outputs[0][0, which + 4, anchor]
        if isinstance(self.spec, cards.Ultraface):
            return self.outputs[0][0, anchor, 1]
        return self.outputs[0][0, anchor, which + 5] * self.outputs[0][0, anchor, 4]

    def _worth_a_look(self, anchor: Tir, threshold: Tir) -> ExitStack:
        """Enter a branch for the anchors that can reach the threshold: no product is above its objectness."""
        branch = ExitStack()
        if isinstance(self.spec, cards.Yolox | cards.Yolov5):
            branch.enter_context(T.If(self.outputs[0][0, anchor, 4] >= threshold))
            branch.enter_context(T.Then())
        return branch

    def _collect(self, found: list[Tir], number: Tir) -> None:
        """Gather the anchors whose best class reaches the threshold, with their boxes."""
        boxes, scores, classes = found
        threshold = T.float32(self.spec.score_threshold)
        best = T.alloc_buffer((self.anchors,), "float32")
        if isinstance(self.spec, cards.Yolov8):  # classes outermost: anchors are adjacent in memory
            with T.serial(0, self.anchors) as anchor:
                T.buffer_store(best, self.class_score(anchor, 0), [anchor])
            with T.serial(1, self.classes) as which, T.serial(0, self.anchors) as anchor:
                T.buffer_store(best, T.max(best[anchor], self.class_score(anchor, which)), [anchor])
        else:
            lanes = 16
            rest = self.classes % lanes
            with T.serial(0, self.anchors) as anchor:
                T.buffer_store(best, T.float32(_GONE), [anchor])
            with T.serial(0, self.anchors) as anchor, self._worth_a_look(anchor, threshold):
                top = T.alloc_buffer((lanes,), "float32", scope="local")
                with T.vectorized(0, lanes) as lane:
                    T.buffer_store(top, T.float32(_GONE), [lane])
                if self.classes >= lanes:
                    with T.serial(0, self.classes // lanes) as block, T.vectorized(0, lanes) as lane:
                        value = self.class_score(anchor, block * lanes + lane)
                        T.buffer_store(top, T.max(top[lane], value), [lane])
                for k in range(rest):
                    value = self.class_score(anchor, self.classes - rest + k)
                    T.buffer_store(top, T.max(top[k], value), [k])
                peak = top[0]
                for k in range(1, min(lanes, self.classes)):
                    peak = T.max(peak, top[k])
                T.buffer_store(best, peak, [anchor])
        with T.serial(0, self.anchors) as anchor, T.If(best[anchor] >= threshold), T.Then():
            n = number[0]
            T.buffer_store(scores, best[anchor], [n])
            T.buffer_store(classes, T.int32(0), [n])
            # The first class that has the best score, as numpy's argmax: from the last to the first.
            with T.serial(0, self.classes) as back:
                which = self.classes - 1 - back
                with T.If(self.class_score(anchor, which) == best[anchor]), T.Then():
                    T.buffer_store(classes, T.cast(which, "int32"), [n])
            for position, value in enumerate(self.box(anchor)):
                T.buffer_store(boxes, value, [n, position])
            T.buffer_store(number, n + 1, [0])

    def box(self, anchor: Tir) -> list[Tir]:
        """Corners of an anchor's box in input pixels."""
        width, height = T.float32(self.card.width), T.float32(self.card.height)
        if isinstance(self.spec, cards.Ultraface):
            corners = [self.outputs[1][0, anchor, k] for k in range(4)]
            return [corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height]
        if isinstance(self.spec, cards.Yolov8):
            x, y, w, h = (self.outputs[0][0, k, anchor] for k in range(4))
        else:
            x, y, w, h = (self.outputs[0][0, anchor, k] for k in range(4))
        if self.gridded:
            stride = self.cells[anchor, 2]
            x, y = (x + self.cells[anchor, 0]) * stride, (y + self.cells[anchor, 1]) * stride
            w, h = T.exp(w) * stride, T.exp(h) * stride
        elif getattr(self.spec, "normalised", False):
            x, y, w, h = x * width, y * height, w * width, h * height
        half = T.float32(0.5)
        return [x - w * half, y - h * half, x + w * half, y + h * half]

    # ------------------------------------------------------------ suppression

    def _suppress(self, found: list[Tir], number: Tir, results: list[Tir]) -> None:
        """Take the best candidate, drop those that it covers, until none is left or enough are kept."""
        boxes, scores, classes = found
        out_boxes, out_scores, out_classes, count = results
        kept = T.alloc_buffer((1,), "int32", scope="local")
        best = T.alloc_buffer((1,), "int32", scope="local")
        T.buffer_store(kept, T.int32(0), [0])
        self._find_best(scores, number, best)
        with T.While(T.And(best[0] >= 0, kept[0] < self.limit)):
            at, place = best[0], kept[0]
            for k in range(4):
                T.buffer_store(out_boxes, boxes[at, k], [place, k])
            T.buffer_store(out_scores, scores[at], [place])
            T.buffer_store(out_classes, classes[at], [place])
            T.buffer_store(scores, T.float32(_GONE), [at])
            with T.serial(0, number[0]) as other:
                same = (classes[other] == out_classes[kept[0]]) if self.spec.class_wise else T.bool(True)
                with T.If(T.And(scores[other] > T.float32(_GONE), same)), T.Then():
                    covered = self._covered(out_boxes, kept[0], boxes, other)
                    with T.If(covered), T.Then():
                        T.buffer_store(scores, T.float32(_GONE), [other])
            T.buffer_store(kept, kept[0] + 1, [0])
            self._find_best(scores, number, best)
        T.buffer_store(count, kept[0], [0])

    @staticmethod
    def _find_best(scores: Tir, number: Tir, best: Tir) -> None:
        top = T.alloc_buffer((1,), "float32", scope="local")
        T.buffer_store(top, T.float32(_GONE), [0])
        T.buffer_store(best, T.int32(-1), [0])
        with T.serial(0, number[0]) as other, T.If(scores[other] > top[0]), T.Then():
            T.buffer_store(top, scores[other], [0])
            T.buffer_store(best, T.cast(other, "int32"), [0])

    def _covered(self, first: Tir, one: Tir, second: Tir, two: Tir) -> Tir:
        """Whether the overlap of two boxes is above the threshold, in fp64 as numpy does it."""

        def at(buffer: Tir, row: Tir, column: int) -> Tir:
            return T.cast(buffer[row, column], "float64")

        zero = T.float64(0)
        a, b = [at(first, one, k) for k in range(4)], [at(second, two, k) for k in range(4)]
        width = T.max(T.min(a[2], b[2]) - T.max(a[0], b[0]), zero)
        height = T.max(T.min(a[3], b[3]) - T.max(a[1], b[1]), zero)
        areas = [T.max(c[2] - c[0], zero) * T.max(c[3] - c[1], zero) for c in (a, b)]
        common = width * height
        return common > T.float64(self.spec.nms_threshold) * (areas[0] + areas[1] - common)


SUPPORTED: tuple[type[cards.BoxOutput], ...] = (cards.Yolox, cards.Yolov5, cards.Yolov8, cards.Ultraface)

"""Decoders that only hardware with many threads has compiled, SSD and YuNet; processors run numpy's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

from edgec.compiler.processing.parallel_boxes import ParallelDetectKernel
from edgec.runtime import card as cards
from edgec.runtime.processing.boxes import YUNET_PARTS

Tir: TypeAlias = Any  # TVM's expressions and buffers are made at import time and have no static types


class SsdKernel(ParallelDetectKernel):
    """SSD: outputs `scores [1, anchors, classes]` and `boxes [1, anchors, 4]`; then `cells [anchors, 4]`, centres and
    sizes, if boxes are offsets from these.
    """

    spec: cards.Ssd

    def _sizes(self) -> tuple[int, int]:
        columns = self.shapes[0][2]
        self.background = None if self.spec.background is None else self.spec.background % columns
        return self.shapes[0][1], columns - (self.background is not None)

    @property
    def constants(self) -> int:
        """Centre and size of each anchor."""
        return 4 if self.spec.coding == "centre" else 0

    def _begin(self, anchor: Tir) -> None:
        """The largest value of an anchor and the sum of the exponentials, which softmax divides by."""
        if self.spec.activation != "softmax":
            return
        values, columns = self.outputs[0], self.shapes[0][2]
        self.top = T.alloc_buffer((1,), "float32", scope="local")
        self.sum = T.alloc_buffer((1,), "float32", scope="local")
        T.buffer_store(self.top, values[0, anchor, 0], [0])
        with T.serial(1, columns) as column:
            T.buffer_store(self.top, T.max(self.top[0], values[0, anchor, column]), [0])
        T.buffer_store(self.sum, T.float32(0), [0])
        with T.serial(0, columns) as column:
            T.buffer_store(self.sum, self.sum[0] + T.exp(values[0, anchor, column] - self.top[0]), [0])

    def class_score(self, anchor: Tir, which: Tir) -> Tir:
        """The score of an anchor for a class; the classes behind the background have moved down by one."""
        column = which
        if self.background is not None:
            column = which + T.Select(which >= self.background, T.int32(1), T.int32(0))
        value = self.outputs[0][0, anchor, column]
        if self.spec.activation == "softmax":
            return T.exp(value - self.top[0]) / self.sum[0]
        if self.spec.activation == "sigmoid":  # exp of negative numbers only, as numpy's
            small = T.exp(-T.abs(value))
            return T.Select(value >= T.float32(0), T.float32(1), small) / (T.float32(1) + small)
        return value

    def box(self, anchor: Tir) -> list[Tir]:
        """Corners of an anchor's box in input pixels."""
        order = (1, 0, 3, 2) if self.spec.order == "yx" else (0, 1, 2, 3)
        codes = [self.outputs[1][0, anchor, k] for k in order]
        if self.spec.coding == "centre":
            x, y, w, h = (self.cells[anchor, k] for k in range(4))
            scale = [T.float32(one) for one in self.spec.variances]
            x, y = x + codes[0] * scale[0] * w, y + codes[1] * scale[1] * h
            w, h = w * T.exp(codes[2] * scale[2]), h * T.exp(codes[3] * scale[3])
            codes = _corners(x, y, w, h)
        width, height = T.float32(self.card.width), T.float32(self.card.height)
        return [codes[0] * width, codes[1] * height, codes[2] * width, codes[3] * height]


class YunetKernel(ParallelDetectKernel):
    """YuNet: of each stride `cls` and `obj` `[1, cells, 1]`, `bbox [1, cells, 4]` and `kps [1, cells, 10]`; then
    `cells [anchors, 3]`.

    One result more: `points [max, 10]`, the landmarks of the boxes in input pixels.
    """

    results = 6
    spec: cards.Yunet

    def _sizes(self) -> tuple[int, int]:
        self.counts = [shape[1] for shape in self.shapes[:: len(YUNET_PARTS)]]
        return sum(self.counts), 1

    @property
    def constants(self) -> int:
        """Cell and stride of each anchor."""
        return 3

    def _more_results(self) -> None:
        self.points = T.arg("points", T.buffer((self.limit, 10), "float32"))

    def _of(self, kind: str, anchor: Tir, column: int) -> Tir:
        """A value of an anchor, from the output of its stride."""
        place, first = list(YUNET_PARTS).index(kind), self.anchors
        found: Tir = None
        for level in reversed(range(len(self.counts))):
            first -= self.counts[level]
            output = self.outputs[level * len(YUNET_PARTS) + place]
            value = output[0, anchor - first, column]
            found = (
                value if found is None else T.if_then_else(anchor < first + self.counts[level], value, found)
            )
        return found

    def class_score(self, anchor: Tir, which: Tir) -> Tir:
        """The root of class times objectness."""
        zero, one = T.float32(0), T.float32(1)
        parts = [T.max(T.min(self._of(kind, anchor, 0), one), zero) for kind in ("cls", "obj")]
        return T.sqrt(parts[0] * parts[1])

    def box(self, anchor: Tir) -> list[Tir]:
        """Corners of an anchor's box in input pixels."""
        x, y, w, h = (self._of("bbox", anchor, k) for k in range(4))
        stride = self.cells[anchor, 2]
        x, y = (self.cells[anchor, 0] + x) * stride, (self.cells[anchor, 1] + y) * stride
        return _corners(x, y, T.exp(w) * stride, T.exp(h) * stride)

    def _keep(self, row: Tir, place: Tir, boxes: Tir, scores: Tir, classes: Tir) -> None:
        super()._keep(row, place, boxes, scores, classes)
        anchor = self.order[row]
        for k in range(10):
            value = (self._of("kps", anchor, k) + self.cells[anchor, k % 2]) * self.cells[anchor, 2]
            T.buffer_store(self.points, value, [place, k])


def _corners(x: Tir, y: Tir, w: Tir, h: Tir) -> list[Tir]:
    half = T.float32(0.5)
    return [x - w * half, y - h * half, x + w * half, y + h * half]


PARALLEL_ONLY: tuple[type[cards.BoxOutput], ...] = (cards.Ssd, cards.Yunet)


def decoder_shapes(spec: cards.BoxOutput, given: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]] | None:
    """The outputs of an SSD or YuNet as `[1, anchors, values]`, as numpy takes them; None if they cannot be."""
    if isinstance(spec, cards.Ssd):
        scores, boxes = given
        if len(scores) != 3 or math.prod(boxes) != scores[1] * 4:
            return None
        if spec.background is not None and not -scores[2] <= spec.background < scores[2]:
            return None
        return [scores, (1, scores[1], 4)] if scores[2] > (spec.background is not None) else None
    sizes = [*YUNET_PARTS.values()] * (len(given) // len(YUNET_PARTS))
    counts = [math.prod(shape) / size for shape, size in zip(given, sizes, strict=True)]
    per_stride = [
        counts[first : first + len(YUNET_PARTS)] for first in range(0, len(counts), len(YUNET_PARTS))
    ]
    if any(set(one) != {one[0]} for one in per_stride):
        return None
    return [(1, math.prod(shape) // size, size) for shape, size in zip(given, sizes, strict=True)]


def parallel_kernel(
    spec: cards.BoxOutput, card: cards.ImageInput, shapes: Sequence[tuple[int, ...]]
) -> ParallelDetectKernel:
    """What writes the function of a decoder."""
    if isinstance(spec, cards.Ssd):
        return SsdKernel(spec, card, shapes)
    return (YunetKernel if isinstance(spec, cards.Yunet) else ParallelDetectKernel)(spec, card, shapes)

"""Boxes of a detector on hardware that runs many threads: scores, a ranking, a matrix of overlaps, and its scan.

What is computed is defined by `boxes` beside this module, and the results are the same. Greedy suppression goes from
one box to the next; here all pairs of candidates are compared at once, a bit for each, and one block of threads walks
the rows of bits in the order of scores, 32 candidates at a time. No step depends on the order in which threads run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.backends.interface import RESULTS
from edgec.compiler.processing.boxes import DetectKernel
from edgec.runtime import card as cards
from edgec.runtime.processing.boxes import CANDIDATES
from edgec.runtime.processing.compiled import DETECT

Tir: TypeAlias = Any  # TVM's expressions and buffers are made at import time and have no static types

_THREADS, _WARP, _BITS = 128, 32, 32
_LOOKS = 8  # elements of a thread that looks for NaN
_NONE = -1  # in the order of candidates: there are no more


class ParallelDetectKernel(DetectKernel):
    """Writes the function of `DetectKernel`, with the same parameters, as launches one after another.

    At most `CANDIDATES` boxes, those with the best scores, are compared. One parameter more: `broken [1]` is 1 where an
    output contains NaN, which no score shows. What a decoder adds to its boxes comes behind it.

    Attributes:
        results: how many parameters are results.
    """

    results = 5

    def __init__(
        self, spec: cards.BoxOutput, card: cards.ImageInput, shapes: Sequence[tuple[int, ...]]
    ) -> None:
        super().__init__(spec, card, shapes)
        self.most = min(CANDIDATES, self.anchors)
        self.words = -(-self.most // _BITS)

    def build(self) -> PrimFunc:
        """The function; its attribute `RESULTS` counts the results."""
        with IRBuilder() as builder, T.prim_func():
            T.func_name(DETECT)
            T.func_attr(
                {
                    "global_symbol": DETECT,
                    "tirx.is_scheduled": True,
                    "tirx.noalias": True,
                    RESULTS: self.results,
                }
            )
            results = self._parameters()
            self.broken = T.arg("broken", T.buffer((1,), "int32"))
            self._more_results()
            self.scored = T.alloc_buffer((self.anchors,), "float32")
            self.kinds = T.alloc_buffer((self.anchors,), "int32")
            self.order = T.alloc_buffer((self.most,), "int32")
            self.boxes = T.alloc_buffer((self.most, 4), "float32")
            self.overlaps = T.alloc_buffer((self.most, self.words), "int32")
            self._score()
            for output in self.outputs:
                self._look_for_nan(output)
            self._rank()
            self._compare()
            self._scan(*results)
        made: PrimFunc = builder.get()
        return made

    def _score(self) -> None:
        """The best class of each anchor and its score, below 0 for what does not reach the threshold."""
        threshold = T.float32(self.spec.score_threshold)
        with _threads(self.anchors) as anchor:
            best = _local("float32")
            kind = _local("int32")
            _store(best, T.float32(-1), 0)
            _store(kind, T.int32(0), 0)
            self._begin(anchor)
            with self._worth_a_look(anchor, threshold), T.serial(0, self.classes) as which:
                score = self.class_score(anchor, which)
                with T.If(score > best[0]), T.Then():  # the first of equal ones, as numpy's argmax
                    _store(best, score, 0)
                    _store(kind, T.cast(which, "int32"), 0)
            _store(self.scored, T.Select(best[0] >= threshold, best[0], T.float32(-1)), anchor)
            _store(self.kinds, kind[0], anchor)
            with T.If(anchor < self.most), T.Then():
                _store(self.order, T.int32(_NONE), anchor)
            with T.If(anchor == 0), T.Then():
                _store(self.broken, T.int32(0), 0)

    def _more_results(self) -> None:
        """Declare the results that a decoder adds."""

    def _begin(self, anchor: Tir) -> None:
        """Compute what the scores of an anchor have in common."""

    def _look_for_nan(self, output: Tir) -> None:
        """Every thread looks at some elements; all that find one store the same."""
        rows, columns = (int(size) for size in output.shape[1:])
        count = rows * columns
        threads = -(-count // _LOOKS)
        with _threads(threads) as first, T.serial(0, _LOOKS) as step:
            at = first + step * threads
            with T.If(at < count), T.Then(), T.If(T.isnan(output[0, at // columns, at % columns])), T.Then():
                _store(self.broken, T.int32(1), 0)

    def _rank(self) -> None:
        """Each candidate's place by score, equal ones in the anchors' order: how many come before it.

        A warp counts for an anchor; those of anchors that are no candidates end at once.
        """
        with (
            T.launch_thread("blockIdx.x", self.anchors) as anchor,
            T.launch_thread("threadIdx.x", _WARP) as lane,
        ):
            parts = T.alloc_buffer((_WARP,), "int32", scope="shared")
            counted = _local("int32")
            _store(counted, T.int32(0), 0)
            score = self.scored[anchor]
            with T.If(score >= T.float32(0)), T.Then(), T.serial(0, -(-self.anchors // _WARP)) as step:
                other = step * _WARP + lane
                with T.If(other < self.anchors), T.Then():
                    value = self.scored[other]
                    before = T.Or(value > score, T.And(value == score, other < anchor))
                    _store(counted, counted[0] + T.Select(before, T.int32(1), T.int32(0)), 0)
            _store(parts, counted[0], lane)
            _barrier()
            with T.If(T.And(lane == 0, score >= T.float32(0))), T.Then():
                rank = _local("int32")
                _store(rank, T.int32(0), 0)
                with T.serial(0, _WARP) as part:
                    _store(rank, rank[0] + parts[part], 0)
                with T.If(rank[0] < self.most), T.Then():
                    _store(self.order, T.cast(anchor, "int32"), rank[0])
                    for position, value in enumerate(self.box(anchor)):
                        _store(self.boxes, value, rank[0], position)

    def _compare(self) -> None:
        """Row by candidate: a bit for each later candidate that it covers."""
        with _threads(self.most * self.words) as number:
            row, word = number // self.words, number % self.words
            with T.If(self.order[row] >= 0), T.Then():
                bits = _local("int32")
                _store(bits, T.int32(0), 0)
                with T.If(word * _BITS + _BITS - 1 > row), T.Then(), T.serial(0, _BITS) as bit:
                    other = word * _BITS + bit
                    with T.If(T.And(other > row, other < self.most)), T.Then():
                        self._mark(bits, bit, row, other)
                _store(self.overlaps, bits[0], row, word)

    def _mark(self, bits: Tir, bit: Tir, row: Tir, other: Tir) -> None:
        """Set a bit if a candidate covers another, where there is one."""
        with T.If(self.order[other] >= 0), T.Then():
            covered = self._covered(self.boxes, row, self.boxes, other)
            if self.spec.class_wise:
                same = self.kinds[self.order[row]] == self.kinds[self.order[other]]
                covered = T.And(same, covered)
            with T.If(covered), T.Then():
                _store(bits, T.bitwise_or(bits[0], T.shift_left(T.int32(1), bit)), 0)

    def _scan(self, boxes: Tir, scores: Tir, classes: Tir, count: Tir) -> None:
        """Keep what nothing kept before covers. A thread holds the bits of 32 candidates that are gone.

        The 32 candidates whose turn it is are decided by every thread alike.
        """
        with (
            T.launch_thread("blockIdx.x", 1),
            T.launch_thread("threadIdx.x", -(-self.words // _WARP) * _WARP) as thread,
        ):
            shown = T.alloc_buffer((self.words,), "int32", scope="shared")
            gone, turn, kept = _local("int32"), _local("int32"), _local("int32")
            _store(gone, T.int32(0), 0)
            _store(kept, T.int32(0), 0)
            with T.serial(0, self.words) as word:
                with T.If(thread == word), T.Then():
                    _store(shown, gone[0], word)
                _barrier()
                with T.If(self.order[word * _BITS] >= 0), T.Then():
                    _store(turn, shown[word], 0)
                    with T.serial(0, _BITS) as bit:
                        row = word * _BITS + bit
                        stays = T.bitwise_and(T.shift_right(turn[0], bit), T.int32(1)) == 0
                        asked = T.And(T.And(row < self.most, kept[0] < self.limit), stays)
                        with T.If(asked), T.Then(), T.If(self.order[row] >= 0), T.Then():
                            _store(turn, T.bitwise_or(turn[0], self.overlaps[row, word]), 0)
                            with T.If(T.And(thread > word, thread < self.words)), T.Then():
                                _store(gone, T.bitwise_or(gone[0], self.overlaps[row, thread]), 0)
                            with T.If(thread == 0), T.Then():
                                self._keep(row, kept[0], boxes, scores, classes)
                            _store(kept, kept[0] + 1, 0)
            with T.If(thread == 0), T.Then():
                _store(count, kept[0], 0)

    def _keep(self, row: Tir, place: Tir, boxes: Tir, scores: Tir, classes: Tir) -> None:
        at = self.order[row]
        for k in range(4):
            _store(boxes, self.boxes[row, k], place, k)
        _store(scores, self.scored[at], place)
        _store(classes, self.kinds[at], place)


@contextmanager
def _threads(count: int) -> Iterator[Tir]:
    """A launch with a thread for each number below `count`."""
    with (
        T.launch_thread("blockIdx.x", -(-count // _THREADS)) as block,
        T.launch_thread("threadIdx.x", _THREADS) as thread,
    ):
        number = block * _THREADS + thread
        if count % _THREADS:
            with T.If(number < count), T.Then():
                yield number
        else:
            yield number


def _local(dtype: str) -> Tir:
    return T.alloc_buffer((1,), dtype, scope="local")


def _store(buffer: Tir, value: Tir, *at: Tir) -> None:
    T.buffer_store(buffer, value, list(at))


def _barrier() -> None:
    T.evaluate(T.tvm_storage_sync("shared"))

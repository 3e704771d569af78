"""3×3 convolution without stride by F(2×2, 3×3), F(4×4, 3×3) and F(6×6, 3×3), on blocked tensors.

A kernel works on blocks of tiles: whole rows of tiles of one image. It transforms the weights (`t²`
matrices `[in, out]`) and a block's input (`t²` matrices `[tiles, in]`) into scratch, multiplies the
matrices with the accumulators in registers, and transforms the products of a group of output channels back,
the fused epilogue applied to the results before they are stored. Padding is handled where tiles are loaded and
stored.

Tasks are either blocks of tiles (the input's scratch is the thread's own and stays in its cache; the
transformed weights are shared) or groups of output channels (the weights' scratch is the thread's own; the
transformed input is shared). Weights are transformed on every call, or once by the compiler
(`edgec.compiler.backends.cpu.layouts.stored_winograd` chooses). Measured on x86-64, transforming them on every call
costs on the ResNet shapes from 0 % (56²) over 12 % (28²) to nothing again (14², where reading four times the weights
costs as much), while transformed weights are four times as large in the artifact, in memory and on their way from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx import AllocBuffer, PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.half_sums import CHUNK, HalfSums, in_halves
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    parallel,
    seq,
    shuffled,
    vector_load,
)
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule, Scratch, Transforms, Vectors
from edgec.compiler.operands.operands import FLOAT16, FLOAT32

VERSION = 2

# Largest error relative to the largest result, by m; up to 512 input channels of rectified normal data. The
# root mean square error is 0.7, 2.0 and 14 times that of a direct sum in fp32.
ERROR = {2: 1e-6, 4: 5e-6, 6: 3e-5}
# The same in half precision, up to 256 channels (a direct sum: 1.2e-3; root mean square 6e-4 and 2.8e-4); with tiles of
# 4×4 it is 9e-3.
ERROR_OF_HALVES = {2: 2.4e-3}


def applies(spec: ConvSpec) -> bool:
    """Whether the template supports the convolution."""
    return has_the_form(spec) and spec.operands in (FLOAT32, FLOAT16)


def has_the_form(spec: ConvSpec) -> bool:
    """Whether it is a convolution that the algorithm computes, of any operands."""
    w = spec.window
    return (
        w.kernel == (3, 3)
        and w.stride == (1, 1)
        and w.dilation == (1, 1)
        and spec.groups == 1
        and spec.in_block == spec.lanes
    )


def emit(
    spec: ConvSpec, epilogue: Epilogue, schedule: Schedule, threads: int, *, transformed: bool = False
) -> PrimFunc:
    """The kernel for `schedule`.

    Args:
        spec: the convolution.
        epilogue: what follows it.
        schedule: a candidate.
        threads: that run it.
        transformed: whether the weights come transformed.
    """
    return Winograd(spec, epilogue, schedule, threads, transformed=transformed).build()


@dataclass(frozen=True)
class Part:
    """A part of the input channels: its first block, how many channels, whether the sums start with it."""

    first: Expr
    channels: int
    starts: bool


class Winograd(Transforms):
    """The kernel; types that multiply in another way override `register_tile`."""

    def build(self) -> PrimFunc:
        """The finished kernel."""
        return self.epilogue.build(self._by_channels() if self.schedule.by_channels else self._by_tiles())

    def _by_tiles(self) -> Stmt:
        transforms = not self.transformed
        weights = self.stored_weights()
        if transforms:
            weights = self.allocated("weights", self.spec.in_channels, self.out_blocks)
        groups = self.out_blocks // self.schedule.group

        def transform(b: Expr, channel_block: Expr) -> Stmt:
            return self.load_weights(self.part_of(weights, b), b, channel_block, channel_block)

        def task(n: Expr, r: Expr) -> Stmt:
            block = (n, r * const(self.schedule.rows))
            inputs = self.allocated("transformed", self.in_blocks * self.count)
            products = self.allocated("products", self.schedule.group * self.count, dtype=self.sums)

            def group(g: Expr) -> Stmt:
                first = g * const(self.schedule.group)
                return self._group(block, first, self.part_of(weights, first), inputs, products)

            load = loop(self.in_blocks, lambda b: self.load_tiles(block, b, inputs), "icb")
            return seq(
                [AllocBuffer(inputs.buffer), load, AllocBuffer(products.buffer), loop(groups, group, "group")]
            )

        second = parallel([self.spec.batch, self.row_blocks], task, self.threads)
        if not transforms:
            return second
        first = parallel([self.out_blocks, self.in_blocks], transform, self.threads)
        return seq([AllocBuffer(weights.buffer), first, second])

    def _by_channels(self) -> Stmt:
        sizes = [self.spec.batch, self.row_blocks]
        every = self.allocated("transformed", self.in_blocks * self.count, sizes[0] * sizes[1])

        def place(n: Expr, r: Expr) -> tuple[tuple[Expr, Expr], Scratch]:
            return (n, r * const(self.schedule.rows)), self.part_of(every, n * const(self.row_blocks) + r)

        def load(n: Expr, r: Expr, b: Expr) -> Stmt:
            block, inputs = place(n, r)
            return self.load_tiles(block, b, inputs)

        def task(g: Expr) -> Stmt:
            group, first = self.schedule.group, g * const(self.schedule.group)
            products = self.allocated("products", group * self.count, dtype=self.sums)
            if self.schedule.ic_chunk:
                block, inputs = place(const(0), const(0))
                return self._chunked(block, first, inputs, products)
            stored = self.transformed
            weights = (
                self.part_of(self.stored_weights(), first)
                if stored
                else self.allocated("weights", self.spec.in_channels, group)
            )

            def transform(b: Expr) -> Stmt:
                own = self.part_of(weights, b)
                return loop(self.in_blocks, lambda c: self.load_weights(own, first + b, c, c), "icb")

            def multiply(n: Expr, r: Expr) -> Stmt:
                block, inputs = place(n, r)
                return self._group(block, first, weights, inputs, products)

            blocks = loop(sizes[0], lambda n: loop(sizes[1], lambda r: multiply(n, r), "rows"), "n")
            multiplied = [AllocBuffer(products.buffer), blocks]
            if stored:
                return seq(multiplied)
            return seq([AllocBuffer(weights.buffer), loop(group, transform, "ocb"), *multiplied])

        first = parallel([*sizes, self.in_blocks], load, self.threads)
        second = parallel([self.out_blocks // self.schedule.group], task, self.threads)
        return seq([AllocBuffer(every.buffer), first, second])

    def _chunked(self, block: tuple[Expr, Expr], first: Expr, inputs: Scratch, products: Scratch) -> Stmt:
        """A group of channel blocks, a part of the input channels at a time."""
        s = self.schedule
        weights = self.allocated("weights", s.ic_chunk, s.group)
        blocks = s.ic_chunk // self.lanes
        count, rest = divmod(self.spec.in_channels, s.ic_chunk)

        def chunk(number: Expr, channels: int, start: bool) -> Stmt:
            before = number * const(blocks)

            def transform(b: Expr) -> Stmt:
                own = self.part_of(weights, b)
                sub_blocks = -(-channels // self.lanes)
                return loop(sub_blocks, lambda c: self.load_weights(own, first + b, before + c, c), "icb")

            part = Part(before, channels, start)
            return seq([loop(s.group, transform, "ocb"), self._multiply(weights, inputs, products, part)])

        steps = [chunk(const(0), s.ic_chunk, True)]
        if count > 1:
            steps.append(loop(count - 1, lambda c: chunk(c, s.ic_chunk, False), "chunk", start=1))
        if rest:
            steps.append(chunk(const(count), rest, False))
        steps.append(self._results(block, first, products))
        return seq([AllocBuffer(weights.buffer), AllocBuffer(products.buffer), *steps])

    def _group(
        self, block: tuple[Expr, Expr], first: Expr, weights: Scratch, inputs: Scratch, products: Scratch
    ) -> Stmt:
        """All products of a group of channel blocks from `first` on, then their results."""
        everything = Part(const(0), self.spec.in_channels, True)
        return seq(
            [self._multiply(weights, inputs, products, everything), self._results(block, first, products)]
        )

    def _results(self, block: tuple[Expr, Expr], first: Expr, products: Scratch) -> Stmt:
        return loop(self.schedule.group, lambda b: self.store_tiles(block, first + b, b, products), "ocb")

    def _multiply(self, weights: Scratch, inputs: Scratch, products: Scratch, part: Part) -> Stmt:
        """The products of a group of channel blocks for a part of the input channels."""
        s = self.schedule
        whole, rest = divmod(self.count, s.tiles)

        def multiply(matrix: Expr, sub: Expr) -> Stmt:
            member = sub * const(s.out_blocks)
            own = self.part_of(weights, member)

            def tile(start: Expr, size: int) -> Stmt:
                to = products.at(matrix, member * const(self.count) + start)
                return self.register_tile(matrix, own, inputs, part, start, size, (products, to))

            def nth(number: Expr) -> Stmt:
                return tile(number * const(s.tiles), s.tiles)

            parts = [loop(whole, nth, "tiles")] if whole else []
            return seq([*parts, tile(const(whole * s.tiles), rest)] if rest else parts)

        subs = s.group // s.out_blocks
        return loop(self.t * self.t, lambda k: loop(subs, lambda sub: multiply(k, sub), "sub"), "matrix")

    def register_tile(
        self,
        matrix: Expr,
        weights: Scratch,
        inputs: Scratch,
        part: Part,
        start: Expr,
        size: int,
        to: tuple[Scratch, Expr],
    ) -> Stmt:
        """The product of `size` tiles with `out_blocks` channel blocks."""
        lanes, blocks = self.lanes, self.schedule.out_blocks
        acc: Accumulators = Accumulators(size * blocks, lanes, self.dtype)
        if in_halves(self.spec.operands):
            acc = HalfSums(size * blocks, lanes, chunked=part.channels > CHUNK)

        def step(channel_block: Expr, lane: Expr) -> Stmt:
            code = Vectors(lanes, self.dtype)
            channel = channel_block * const(lanes) + lane
            rows = [
                code.name(
                    vector_load(weights.buffer, [self.part_of(weights, const(j)).at(matrix, channel)], lanes)
                )
                for j in range(blocks)
            ]
            at = inputs.at(matrix, (part.first + channel_block) * const(self.count) + start) + lane
            for i in range(size):
                value = broadcast(inputs.buffer[at + const(i * lanes)], lanes)
                value = code.name(value) if blocks > 1 else value
                for j in range(blocks):
                    k = i * blocks + j
                    code.steps.append(acc.set(k, acc.get(k) + value * rows[j]))
            return seq(code.steps)

        def by_element(channel_block: Expr) -> Stmt:
            """A block of channels: a vector of each tile, multiplied by its elements one after the other."""
            code = Vectors(lanes, self.dtype)
            at = inputs.at(matrix, (part.first + channel_block) * const(self.count) + start)
            values = [
                code.name(vector_load(inputs.buffer, [at + const(i * lanes)], lanes)) for i in range(size)
            ]
            for lane in range(lanes):
                channel = channel_block * const(lanes) + const(lane)
                rows = [
                    code.name(
                        vector_load(
                            weights.buffer, [self.part_of(weights, const(j)).at(matrix, channel)], lanes
                        )
                    )
                    for j in range(blocks)
                ]
                for i in range(size):
                    value = broadcast(shuffled([values[i]], [lane]), lanes)
                    for j in range(blocks):
                        k = i * blocks + j
                        code.steps.append(acc.set(k, acc.get(k) + value * rows[j]))
            return seq(code.steps)

        whole, rest = divmod(part.channels, lanes)
        parts: list[Stmt] = []

        def by_channel(block: Expr) -> Stmt:
            return loop(lanes, lambda lane: step(block, lane), "ic")

        one = by_element if self.schedule.elements else by_channel
        if whole and isinstance(acc, HalfSums):
            size_of = max(1, CHUNK // lanes)
            parts.append(
                acc.chunks(whole, size_of, lambda b, n: loop(n, lambda i: one(b + i), "icb"), "chunk")
            )
        elif whole:
            parts.append(loop(whole, one, "icb"))
        if rest:
            last = loop(rest, lambda lane: step(const(whole), lane), "ic")
            parts.append(acc.chunk(last) if isinstance(acc, HalfSums) else last)
        scratch, place = to
        spots = {
            i * blocks + j: place + const((j * self.count + i) * lanes)
            for i in range(size)
            for j in range(blocks)
        }
        before = acc.start() if isinstance(acc, HalfSums) else acc.fill(0.0)
        if not part.starts:
            before = [acc.set(k, vector_load(scratch.buffer, [spot], lanes)) for k, spot in spots.items()]
        after = [scratch.buffer.vstore([spot], acc.total(k)) for k, spot in spots.items()]
        return acc.allocate([*before, *parts, *after])

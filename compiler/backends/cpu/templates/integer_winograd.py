"""3×3 convolution of 8-bit integers without stride by F(2×2, 3×3), the same sums in every bit.

It takes 2.25 times fewer products. Twice the transform of the weights on each axis is one of whole numbers, so the
compiler transforms them (into int16) and the kernel computes four times the sums, which
`edgec.compiler.backends.cpu.integer_compute.quotient` divides, exactly. A transformed input is a sum of four 8-bit
values and fits int16, too. For processors without a dot instruction, where direct convolutions widen both operands
to 16 bits for every product.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.specs import WinogradSpec
from edgec.compiler.backends.cpu.templates import dot
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
from edgec.compiler.backends.cpu.templates.loop_nests import (
    Accumulators,
    Expr,
    broadcast,
    const,
    loop,
    seq,
    unrolled,
)
from edgec.compiler.backends.cpu.templates.winograd import Part, Winograd
from edgec.compiler.backends.cpu.templates.winograd_tiles import Schedule, Scratch, Vectors, odd
from edgec.compiler.backends.cpu.templates.winograd_transforms import (
    input_matrix,
    output_matrix,
    tile_size,
    weight_matrix,
)
from edgec.compiler.graph.rewrite import Array
from edgec.compiler.operands.operands import Operands, in_pairs

VERSION = 1
M = 2  # results of a tile and axis
FACTOR = 2  # that makes the weights' transform one of whole numbers; of both axes, its square
_LARGEST_SUM = 2**31 - 1


def pairs_of(operands: Operands) -> Operands:
    """What the kernel multiplies where the convolution multiplies `operands`.

    Raises:
        ValueError: products of these operands take a dot instruction.
    """
    found = in_pairs(operands)
    if found is None:
        raise ValueError(f"no products of pairs for {operands.name}")
    return found


def transformed(weight: Array) -> Array:
    """`(2 G) g (2 G)ᵀ` of OIHW weights: `[out_channels, in_channels, 4, 4]`, int32."""
    matrix = (FACTOR * weight_matrix(M)).round().astype(np.int32)
    made: Array = np.einsum("yi,ocij,xj->ocyx", matrix, weight.astype(np.int32), matrix, optimize=True)
    return made


def fits(weight: Array, data: str) -> bool:
    """Whether no sum on the way, in any order, leaves int32, whatever the input.

    Args:
        weight: OIHW, int8.
        data: type of the activations, `int8` or `uint8`; padding is zero.
    """
    low, high = (abs(int(limit)) for limit in (np.iinfo(data).min, np.iinfo(data).max))
    matrix = input_matrix(M)
    both = np.einsum("ip,jq->ijpq", matrix, matrix)
    above, below = np.clip(both, 0, None).sum(axis=(2, 3)), np.clip(-both, 0, None).sum(axis=(2, 3))
    inputs = np.maximum(above * high + below * low, below * high + above * low)  # [4, 4]
    products = np.abs(transformed(weight).astype(np.int64)).sum(axis=1) * inputs  # [out_channels, 4, 4]
    back = np.abs(output_matrix(M))
    results = np.einsum("pi,oij,qj->opq", back, products, back)
    return bool(results.max(initial=0) <= _LARGEST_SUM)


def pack(weight: Array, spec: WinogradSpec) -> Array:
    """OIHW to the row of transformed weights: as `WinogradSpec` says, but of words of two input channels."""
    oc, ic, _, _ = weight.shape
    pairs, t, lanes = pairs_of(spec.operands), tile_size(M), spec.lanes
    blocks, words = -(-oc // lanes), odd(ic // pairs.step)
    made = np.zeros((blocks * lanes, words * pairs.step, t * t), np.int16)
    made[:oc, :ic] = transformed(weight).reshape(oc, ic, t * t)
    split = made.reshape(blocks, lanes, words * pairs.step, t * t).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(pairs.pack(split)).reshape(-1)


def emit(spec: WinogradSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel for `schedule`: four times the sums of the convolution, through the epilogue."""
    return _IntegerWinograd(spec, epilogue, schedule, threads).build()


class _IntegerWinograd(Winograd):
    def __init__(self, spec: WinogradSpec, epilogue: Epilogue, schedule: Schedule, threads: int) -> None:
        super().__init__(spec.conv, epilogue, schedule, threads, transformed=True)
        self.pairs = pairs_of(spec.operands)
        self.dtype, self.sums = self.pairs.data, self.pairs.accumulator

    def stored_weights(self) -> Scratch:
        words = self.spec.in_channels // self.pairs.step
        return Scratch(self.weight, const(0), words, self.lanes * self.pairs.step)

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
        """The product of `size` tiles with `out_blocks` channel blocks, a word of two channels a step."""
        lanes, blocks, pairs = self.lanes, self.schedule.out_blocks, self.pairs
        acc = Accumulators(size * blocks, lanes, self.sums)
        words = lanes // pairs.step  # of a block of channels

        def row(j: int, word: Expr) -> Expr:
            at = self.part_of(weights, const(j)).at(matrix, word)
            vector = weights.buffer.vload([at], f"{pairs.weight}x{lanes * pairs.step}")
            return tirx.reinterpret(f"{dot.WORD}x{lanes}", vector)

        def step(channel_block: Expr, word: Expr) -> Stmt:
            code = Vectors(lanes, dot.WORD)
            rows = [code.name(row(j, channel_block * const(words) + word)) for j in range(blocks)]
            at = inputs.at(matrix, channel_block * const(self.count) + start) + word * const(pairs.step)
            for i in range(size):
                pair = inputs.buffer.vload([at + const(i * lanes)], f"{pairs.data}x{pairs.step}")
                value = code.name(broadcast(tirx.reinterpret(dot.WORD, pair), lanes))
                for j in range(blocks):
                    k = i * blocks + j
                    code.steps.append(acc.set(k, dot.multiply_add(pairs, acc.get(k), value, rows[j], lanes)))
            return seq(code.steps)

        whole, rest = divmod(part.channels // pairs.step, words)
        parts: list[Stmt] = []
        if whole:
            parts.append(loop(whole, lambda b: unrolled(words, lambda w: step(b, w)), "icb"))
        if rest:
            parts.append(unrolled(rest, lambda w: step(const(whole), w)))
        scratch, place = to
        after = [
            scratch.buffer.vstore([place + const((j * self.count + i) * lanes)], acc.total(i * blocks + j))
            for i in range(size)
            for j in range(blocks)
        ]
        return acc.allocate([*acc.fill(0.0), *parts, *after])

"""Channels of blocked tensors in another order: concatenation, slices, shuffles of groups, channels of zeros.

Which lanes an output block takes from which vectors is known at compile time, so each is a load for every vector that
contributes and one shuffle fewer than loads; a block that is one of an operand's is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tvm import te, tirx
from tvm.tirx import PrimFunc, Stmt

from edgec.compiler.backends.cpu.compute import prim_func
from edgec.compiler.backends.cpu.specs import ChannelsSpec, Run, encode
from edgec.compiler.backends.cpu.templates.epilogue import Epilogue
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
    vectorised,
)
from edgec.compiler.backends.cpu.templates.template import Template, fused_with_epilogue
from edgec.compiler.backends.cpu.tir_pipeline import LEVEL
from edgec.compiler.graph.anchors import ANCHOR, MOVES
from edgec.targets.target import Target

VERSION = 1
ZERO = (-1, 0)  # the operand and block of zeros
# For each lane of a block, the vector (operand and block) that it comes from, and its lane there.
Block: TypeAlias = list[tuple[tuple[int, int], int]]


@dataclass(frozen=True)
class Schedule:
    """The only candidate: a task is a row of all blocks."""

    def __str__(self) -> str:
        return "channels"


def channels(spec: ChannelsSpec) -> PrimFunc:
    """The definition."""
    lanes = spec.lanes
    inputs = [
        te.placeholder((spec.batch, -(-count // lanes), *spec.size, lanes), spec.dtype, f"data{i}")
        for i, count in enumerate(spec.channels)
    ]

    def body(n: Expr, b: Expr, y: Expr, x: Expr, v: Expr) -> Expr:
        number, value, end = b * lanes + v, tirx.const(0, spec.dtype), spec.out_channels
        for run in reversed([Run(*fields) for fields in spec.runs]):
            start = end - run.count
            if run.operand >= 0:
                k = number - start
                c = run.first + k % run.wrap * run.step + k // run.wrap
                value = tirx.if_then_else(
                    tirx.all(number >= start, number < end),
                    inputs[run.operand][n, c // lanes, y, x, c % lanes],
                    value,
                )
            end = start
        return value

    shape = (spec.batch, -(-spec.out_channels // lanes), *spec.size, lanes)
    out = te.compute(shape, body, name="channels", attrs={ANCHOR: encode(spec)})
    return prim_func(inputs, out, spec).with_attr(MOVES, True)


def _sources(spec: ChannelsSpec) -> list[Block]:
    """Where each output block comes from."""
    found = []
    for run in (Run(*fields) for fields in spec.runs):
        for k in range(run.count):
            block, lane = divmod(run.channel(k), spec.lanes)
            found.append((ZERO, 0) if run.operand < 0 else ((run.operand, block), lane))
    found += [(ZERO, 0)] * (-len(found) % spec.lanes)
    return [found[at : at + spec.lanes] for at in range(0, len(found), spec.lanes)]


def emit(spec: ChannelsSpec, epilogue: Epilogue, _schedule: Schedule, threads: int) -> PrimFunc:
    """The kernel."""
    lanes = spec.lanes
    used = sorted({run[0] for run in spec.runs if run[0] >= 0})
    buffers = dict(zip(_first_read(spec), epilogue.inputs, strict=True))
    assert len(buffers) == len(used)

    def gathered(block: Block, at: list[Expr]) -> Expr:
        def vector(source: tuple[int, int]) -> Expr:
            if source == ZERO:
                return broadcast(tirx.const(0, spec.dtype), lanes)
            n, further, y, x = at
            return vector_load(buffers[source[0]], [n, const(source[1]) + further, y, x, 0], lanes)

        order = list(dict.fromkeys(source for source, _ in block))
        made = vector(order[0])
        if len(order) == 1:
            places = [lane for _, lane in block]
            same = order[0] == ZERO or places == list(range(lanes))
            return made if same else shuffled([made], places)
        for number, source in enumerate(order[1:], 1):
            places = []
            for lane, (own, place) in enumerate(block):
                if own == source:
                    places.append(lanes + place)
                else:  # of the first vector in its own order, and of others where they were put
                    places.append(place if number == 1 and own == order[0] else lane)
            made = shuffled([made, vector(source)], places)
        return made

    def row(n: Expr, y: Expr) -> Stmt:
        def one(block: Block, first: int, at: Expr, x: Expr) -> Stmt:
            """The vector of block number `first + at`, whose sources are `at` blocks behind those of `block`."""
            held = Accumulators(1, lanes, spec.dtype)
            number = const(first) + at
            store = vectorised(
                lanes, lambda lane: epilogue.store([n, number, y, x, lane], held.element(0, lane))
            )
            return held.allocate([held.set(0, gathered(block, [n, at, y, x])), store])

        def run(block: Block, first: int, count: int) -> Stmt:
            return loop(
                count, lambda at: loop(spec.size[1], lambda x: one(block, first, at, x), "x"), "block"
            )

        return seq([run(*part) for part in _alike(_sources(spec))])

    # Of dozens of short loops LLVM's highest level unswitches and unrolls each: four times as long for more code.
    return epilogue.build(parallel([spec.batch, spec.size[0]], row, threads)).with_attr(LEVEL, 2)


def _alike(blocks: list[Block]) -> list[tuple[Block, int, int]]:
    """Runs of blocks that take the same lanes, each of the vectors next to those of the one before it.

    Returns:
        for each run the first block, its number, and how many blocks there are.
    """
    found: list[tuple[Block, int, int]] = []
    for number, block in enumerate(blocks):
        if found:
            base, first, count = found[-1]
            shifted = [((own[0], own[1] + count) if own != ZERO else ZERO, lane) for own, lane in base]
            if shifted == block:
                found[-1] = (base, first, count + 1)
                continue
        found.append((block, number, 1))
    return found


def _first_read(spec: ChannelsSpec) -> list[int]:
    """Operands in the order in which the definition reads them."""
    return list(dict.fromkeys(run[0] for run in spec.runs if run[0] >= 0))


def candidates(_spec: ChannelsSpec, _target: Target, _threads: int) -> list[Schedule]:
    """The schedules."""
    return [Schedule()]


TEMPLATE = Template(
    "channels",
    (VERSION,),
    lambda spec: isinstance(spec, ChannelsSpec),
    fused_with_epilogue(VERSION, candidates, emit),
)

"""How many cycles the parts of a kernel take on a target, from the facts about its core.

The templates' static models combine these. Constants that they add are properties of the template, measured on
Cascade Lake: the overhead of a tile, of a pass, of a loop. It is counted in cycles there, and where it is time spent
waiting for the second cache, in proportion to that cache's bandwidth.
"""

from __future__ import annotations

from dataclasses import replace

from edgec.compiler.backends.cpu.dot_instructions import INSTRUCTIONS
from edgec.compiler.operands.operands import FLOAT32, Operands
from edgec.targets.target import Target

_MEASURED_L2 = 40.0  # bytes a cycle, where the templates' waiting times were measured
# A working set of up to this share of a cache stays in it despite other traffic.
_SHARE_OF_CACHE = 0.7


def _rate(target: Target, operands: Operands) -> tuple[float, float]:
    """Steps of whole vectors that can start in a cycle, and cycles until a sum can be added to again.

    Without an instruction, the products of a step are added to its sum sequentially.
    """
    core = target.core
    instruction = INSTRUCTIONS.get(operands.instruction or "")
    if instruction is not None and instruction.share:
        return core.fma_per_cycle * instruction.share, core.fma_latency
    dot = core.dots.get(instruction.rate or instruction.name) if instruction is not None else None
    if dot is not None:
        steps = operands.depth // operands.step
        return dot.per_cycle * steps, dot.latency / steps
    return core.fma_per_cycle / operands.step, core.fma_latency * operands.step


def in_vectors(target: Target, lanes: int) -> Target:
    """`target` as it computes in vectors of `lanes`, where they are half as wide as a register.

    A load of one element into every lane takes as long as for a whole register: measured on Zen 4, where tiles of
    12 columns and two blocks of 8 channels reach 80 % of the peak, and 8 columns and three blocks 95 %.
    """
    core = target.core
    if 2 * lanes != target.fp32_lanes or core.half_vectors == 1:
        return target
    return replace(target, core=replace(core, fma_per_cycle=core.fma_per_cycle * core.half_vectors))


def chains(target: Target, operands: Operands = FLOAT32) -> int:
    """How many sums have to grow independently for no multiply-add to wait."""
    per_cycle, latency = _rate(target, operands)
    return max(1, round(per_cycle * latency))


def step_cycles(
    target: Target, sums: int, loads: float, *, operands: Operands = FLOAT32, split: int = 1
) -> float:
    """Cycles of a step of the reduced axis in a register tile.

    Args:
        target: the hardware.
        sums: vectors of sums that the step adds to.
        loads: vectors and broadcast elements that it loads, those that find no free port counted by more than one.
        operands: what is multiplied.
        split: partial sums into which each sum is split: consecutive steps then need not wait for each other.
    """
    core, (per_cycle, latency) = target.core, _rate(target, operands)
    issued = (sums * core.fma_per_cycle / per_cycle + loads) / core.issue_width
    exposed = core.loads_exposed * loads / core.loads_per_cycle
    return max(sums / per_cycle + exposed, loads / core.loads_per_cycle, latency / split, issued)


def widening_cycles(target: Target, operands: Operands, columns: int, blocks: int) -> float:
    """Cycles in which a step of a tile widens what it multiplies: each column's activations, and each block's weights.

    Shifts and masks find a port beside the multiply-adds' as well: twice as many in a cycle.
    """
    instruction = INSTRUCTIONS.get(operands.instruction or "")
    data, weights = instruction.widens if instruction is not None else (0, 0)
    return (data * columns + weights * blocks) / (2 * target.core.fma_per_cycle)


def data_is_widened(operands: Operands) -> bool:
    """Whether each step of a tile widens its activations."""
    instruction = INSTRUCTIONS.get(operands.instruction or "")
    return instruction is not None and instruction.widens[0] > 0


def temporaries(operands: Operands) -> int:
    """Registers that a product needs besides those of its operands and sums."""
    instruction = INSTRUCTIONS.get(operands.instruction or "")
    return instruction.temporaries if instruction is not None else 0


def vector_cycles(target: Target, operations: float) -> float:
    """Cycles of independent `operations` on whole vectors (sums, maxima, polynomials)."""
    return operations / target.core.fma_per_cycle


def l2_cycles(target: Target, cycles: float) -> float:
    """Cycles of waiting for the second cache, given what they are on Cascade Lake."""
    return cycles * (_MEASURED_L2 / target.core.l2_bytes_per_cycle)


def last_level_bandwidth(target: Target) -> float:
    """Bytes a cycle from behind the second cache: from the last-level cache, or from memory where there is none."""
    return target.core.l3_bytes_per_cycle if target.l3_bytes else target.core.memory_bytes_per_cycle


def fetch_cycles(target: Target, moved: float, held: float) -> float:
    """Cycles to fetch `moved` bytes of a working set of `held` bytes into the first cache."""
    if held <= _SHARE_OF_CACHE * target.l1d_bytes:
        return 0.0
    if held <= _SHARE_OF_CACHE * target.l2_bytes:
        return moved / target.core.l2_bytes_per_cycle
    return moved / last_level_bandwidth(target)


def stream_cycles(target: Target, moved: float) -> float:
    """Cycles to read and write tensors of `moved` bytes together once, from the cache that holds them."""
    if moved <= _SHARE_OF_CACHE * target.l2_bytes:
        return moved / target.core.l2_bytes_per_cycle
    if moved <= _SHARE_OF_CACHE * target.l3_bytes:
        return moved / target.core.l3_bytes_per_cycle
    return moved / target.core.memory_bytes_per_cycle


def exchange_cycles(target: Target, moved: float, threads: int) -> float:
    """Cycles until each thread has what the others wrote of `moved` bytes, where kernels divide work differently.

    Cores that share no cache exchange lines no faster than memory delivers them: 26 GB/s were measured between two
    core complexes of a Zen 4, with a latency of 150 ns, beside 76 GB/s within one.
    """
    return moved * (threads - 1) / threads / target.core.memory_bytes_per_cycle


def l2_overflow(target: Target, size: float) -> float:
    """The bytes of `size` that find no room in the second cache beside what else passes through it."""
    return max(0.0, size - _SHARE_OF_CACHE * target.l2_bytes)

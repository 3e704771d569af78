"""The most memory that kernels take beside their arguments: workspace and stack.

Both are upper bounds. Workspace is what `TVMBackendAllocWorkspace` is asked for: the buffers of a lowered kernel that
do not stay on the stack. Stack is read from the machine code: every instruction that lowers the stack pointer by a
constant counts, so a pattern found in the middle of another instruction can only make the figure larger.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator

import tvm
import tvm_ffi
from tvm.s_tir import SBlock
from tvm.tirx import AllocBuffer, Buffer, IntImm, PrimFunc

from edgec.compiler.backends.cpu.tir_pipeline import storage
from edgec.targets.target import Target

_ALIGNMENT = 64
_NESTED = 3  # a kernel calls its body, and that the function of a parallel loop
_SAVED = (
    6 * 8 + 8 + 8 + _ALIGNMENT
)  # registers, return address and frame pointer of x86-64, and an aligned frame
_LARGEST_FRAME = (
    1 << 20
)  # a larger constant is no frame: kernels keep no more than register tiles on the stack
_FUNCTION, _SYMTAB = 2, 2


def workspace_bytes(functions: Iterable[PrimFunc], target: Target) -> int:
    """The most bytes that one thread of any kernel has allocated at a time."""
    with tvm.target.Target(dict(target.tvm)):
        return max((_workspace_of(function) for function in functions), default=0)


def _workspace_of(function: PrimFunc) -> int:
    if not any(map(_needs_workspace, _buffers(function))):
        return 0
    symbol = str(function.attrs["global_symbol"])
    bound = function.with_attr("target", tvm.target.Target.current())
    lowered = tvm.transform.Sequential(storage())(tvm.IRModule({symbol: bound}))[symbol]
    return sum(_bytes(buffer) for buffer in _buffers(lowered) if _needs_workspace(buffer))


def _needs_workspace(buffer: Buffer) -> bool:
    return str(buffer.scope()) != "local"


def _bytes(buffer: Buffer) -> int:
    """Zero where the size is known only at run time: libedgec allocates it then."""
    if not all(isinstance(length, int | IntImm) for length in buffer.shape):
        return 0
    kind = tvm.DataType(str(buffer.dtype))
    size = math.prod(int(length) for length in buffer.shape) * max(8, int(kind.bits)) * int(kind.lanes) // 8
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _buffers(function: PrimFunc) -> list[Buffer]:
    """All buffers that a kernel allocates."""
    found: list[Buffer] = []

    def alloc(statement: AllocBuffer) -> AllocBuffer:
        found.append(statement.buffer)
        return statement

    def block(statement: SBlock) -> SBlock:
        found.extend(statement.alloc_buffers)
        return statement

    tvm_ffi.structural_map(function.body, [(AllocBuffer, alloc), (SBlock, block)])
    return found


def stack_bytes(objects: Iterable[bytes], target: Target) -> int:
    """The most bytes of stack that a call of any kernel takes, from its object file."""
    frame = _frame_x86 if target.arch == "x86_64" else _frame_arm
    deepest = 0
    for content in objects:
        frames = sorted((frame(code) for code in _functions(content)), reverse=True)
        deepest = max(deepest, sum(frames[:_NESTED]))
    return deepest


def _functions(content: bytes) -> Iterator[bytes]:
    """The machine code of each function of an object file (ELF, 64 bits, little-endian)."""
    start, count = struct.unpack_from("<Q", content, 40)[0], struct.unpack_from("<H", content, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, start + 64 * n) for n in range(count)]
    for _, kind, _, _, at, size, *_ in sections:
        if kind != _SYMTAB:
            continue
        for symbol in range(at, at + size, 24):
            _, info, _, index, value, length = struct.unpack_from("<IBBHQQ", content, symbol)
            if info & 15 == _FUNCTION and 0 < index < count:
                begin = sections[index][4] + value
                yield content[begin : begin + length]


def _frame_x86(code: bytes) -> int:
    """`sub rsp, imm`, with what is pushed before it."""
    largest = 0
    for pattern, form in ((b"\x48\x83\xec", "<b"), (b"\x48\x81\xec", "<i")):
        at = code.find(pattern)
        while at >= 0 and at + 3 + struct.calcsize(form) <= len(code):
            (size,) = struct.unpack_from(form, code, at + 3)
            largest = max(largest, size if size <= _LARGEST_FRAME else 0)
            at = code.find(pattern, at + 1)
    return largest + _SAVED


def _frame_arm(code: bytes) -> int:
    """All instructions that lower `sp`: `sub`, and stores that write their address back."""
    total = 0
    for (word,) in struct.iter_unpack("<I", code[: len(code) // 4 * 4]):
        if word & 0xFF8003E0 == 0xD10003E0:  # sub xN, sp, #imm, which may become the new sp
            amount = word >> 10 & 0xFFF
            total += amount << 12 if word >> 22 & 1 else amount
        elif word & 0x7FC003E0 in (0x298003E0, 0x2D8003E0, 0x2DC003E0) or word & 0xFFC003E0 == 0x6D8003E0:
            total += _pair_below(word)  # stp with write-back
        elif word & 0xFFE00FE0 in (0xF8000FE0, 0xFC000FE0):  # str with write-back
            offset = word >> 12 & 0x1FF
            total += 512 - offset if offset & 0x100 else 0
    return total + _ALIGNMENT


def _pair_below(word: int) -> int:
    offset = word >> 15 & 0x7F
    scale = 8 if word >> 26 & 1 == 0 or word >> 30 == 1 else 16
    return (128 - offset) * scale if offset & 0x40 else 0

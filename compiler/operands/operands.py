"""The operands of a product with constant weights, for any back end.

A dot instruction takes a step: for every lane it adds to one sum the products of `step` neighbours along the reduced
axis. A step of more than one element fills a 32-bit word. Activations hold neighbouring channels side by side already;
weights are packed so that the words of all lanes are adjacent. Another data type is another instance here and, in a
back end, its instruction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

_WORD_BITS = 32


@dataclass(frozen=True)
class Operands:
    """The data types of a product.

    Attributes:
        name: in specifications, and so in the keys of tuned kernels.
        label: in reports; empty for the usual case.
        data: element type of the activations.
        weight: element type of the constant weights.
        accumulator: type of the sums.
        step: elements of the reduced axis that one instruction takes.
        instruction: the dot instruction; None where ordinary arithmetic on widened elements computes the same.
        by_row: whether the packed weights of a step lie element by element, each for all lanes, and not word by word.
        multiplied_weight: what weights are widened to when they are loaded; None where they are multiplied as stored.
        squares: whether the instruction multiplies two rows of two steps by two columns: packed weights lie in words of
            two steps.
    """

    name: str
    label: str
    data: str
    weight: str
    accumulator: str
    step: int = 1
    instruction: str | None = None
    by_row: bool = False
    multiplied_weight: str | None = None
    squares: bool = False

    def __post_init__(self) -> None:
        """Check that a step fills a word.

        Raises:
            ValueError: it does not.
        """
        if self.step == 1:
            return
        for dtype, bits in ((self.data, _bits(self.data)), (self.weight, self.weight_bits)):
            if self.step * bits != _WORD_BITS:
                raise ValueError(f"{self.step} elements of {dtype} do not fill {_WORD_BITS} bits")

    @property
    def weight_bits(self) -> int:
        """Bits of a weight as it is multiplied."""
        return _bits(self.multiplied_weight or self.weight)

    @property
    def data_bytes(self) -> int:
        """Bytes of an activation."""
        return _bits(self.data) // 8

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight."""
        return _bits(self.weight) // 8

    @property
    def accumulator_bytes(self) -> int:
        """Bytes of a sum."""
        return _bits(self.accumulator) // 8

    @property
    def depth(self) -> int:
        """Elements of the reduced axis that lie together for each lane of packed weights."""
        return 2 * self.step if self.squares else self.step

    @property
    def emulated(self) -> Operands:
        """The same products by ordinary arithmetic, on machines without the instruction."""
        if self.instruction is None:
            return self
        return replace(self, name=f"{self.name}-emulated", instruction=None, by_row=False, squares=False)

    def divides(self, inner: int) -> bool:
        """Whether a reduced axis of `inner` elements is a whole number of what packed weights keep together."""
        return inner % self.depth == 0

    def packed_shape(self, inner: int, lanes: int) -> tuple[int, ...]:
        """The last axes of packed weights: `[inner, lanes]`, or `[inner / depth, lanes, depth]`."""
        if self.step == 1:
            return inner, lanes
        depth = self.depth
        return (inner // depth, depth, lanes) if self.by_row else (inner // depth, lanes, depth)

    def packed_place(self, k: Any, lane: Any) -> tuple[Any, ...]:  # noqa: ANN401 - integers or index expressions
        """The last indices of element `k` of a lane in packed weights."""
        if self.step == 1:
            return k, lane
        number, element = k // self.depth, k % self.depth
        return (number, element, lane) if self.by_row else (number, lane, element)

    def pack(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`[…, inner, lanes]` to `[…, *packed_shape(inner, lanes)]`, in the weights' type."""
        *outer, inner, lanes = weights.shape
        if self.step > 1:
            steps = weights.reshape(*outer, inner // self.depth, self.depth, lanes)
            weights = np.ascontiguousarray(steps if self.by_row else steps.swapaxes(-2, -1))
        return weights.astype(numpy_dtype(self.weight), copy=False)

    def unpack(self, packed: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The inverse of `pack`, in the weights' type."""
        if self.step == 1:
            return packed
        words = packed if self.by_row else packed.swapaxes(-2, -1)
        *outer, steps, depth, lanes = words.shape
        return np.ascontiguousarray(words).reshape(*outer, steps * depth, lanes)


FAMILY = {"pmaddubsw": "pmaddwd"}  # of instructions: which one multiplies pairs of int16 beside them


def in_pairs(operands: Operands) -> Operands | None:
    """The products of pairs of int16 of the processor that multiplies `operands` by a sequence of instructions.

    None for operands with a dot instruction, and without any: they have no use for it.
    """
    first, *rest = (operands.instruction or "").split("_")
    name = "_".join([FAMILY.get(first, first), "pairs", *rest[-1:]])
    return next((one for one in (INT16, *ALTERNATIVES[INT16]) if one.instruction == name), None)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type for the compiler's name of a type."""
    return np.dtype(getattr(ml_dtypes, name, name))


@cache
def _bits(dtype: str) -> int:
    found = re.search(r"\d+$", dtype)
    if found is None:
        raise ValueError(f"{dtype!r} does not end with its number of bits")
    return int(found.group())


FLOAT32 = Operands("float32", "", "float32", "float32", "float32")
BFLOAT16 = Operands("bfloat16", "bf16", "bfloat16", "bfloat16", "float32", 2, "vdpbf16ps")
FLOAT16 = Operands("float16", "fp16", "float16", "float16", "float32")
TF32 = Operands("tf32", "tf32", "float32", "float32", "float32")  # rounded as tensor cores take them
INT8 = Operands("int8", "int8", "int8", "int8", "int32", 4, "sdot")
# Where an instruction multiplies two rows of eight elements by two columns.
INT8_SQUARES = replace(INT8, name="int8-squares", instruction="smmla", squares=True)
UINT8_INT8 = Operands("uint8-int8", "int8", "uint8", "int8", "int32", 4, "vpdpbusd")
# Where the weights are such that the sum of two neighbours' products never leaves 16 bits.
UINT8_INT8_PAIRS = replace(UINT8_INT8, name="uint8-int8-pmaddubsw_512", instruction="pmaddubsw_512")
# What Winograd's algorithm makes of 8-bit operands.
INT16 = Operands("int16", "int8", "int16", "int16", "int32", 2, "pmaddwd_pairs_512")
# 8-bit operands of which the activations are kept in 16 bits; any activations of 16 bits.
INT16_INT8 = Operands(
    "int16-int8", "int8", "int16", "int8", "int32", 2, "pmaddwd_wide_512", multiplied_weight="int16"
)
# The same types where the target has no instruction of that name, by preference.
ALTERNATIVES = {
    INT8: (replace(INT8, name="int8-rows", instruction="smlal", by_row=True),),
    UINT8_INT8: tuple(
        replace(UINT8_INT8, name=f"uint8-int8-{instruction}", instruction=instruction)
        for instruction in ("vpdpbusd_256", "pmaddwd_512", "pmaddwd_256", "pmaddwd_128")
    ),
    UINT8_INT8_PAIRS: tuple(
        replace(UINT8_INT8_PAIRS, name=f"uint8-int8-{instruction}", instruction=instruction)
        for instruction in ("pmaddubsw_256", "pmaddubsw_128")
    ),
    INT16: (
        replace(INT16, name="int16-pmaddwd_pairs_256", instruction="pmaddwd_pairs_256"),
        replace(INT16, name="int16-pmaddwd_pairs_128", instruction="pmaddwd_pairs_128"),
        replace(INT16, name="int16-rows", instruction="smlal_pairs", by_row=True),
    ),
    INT16_INT8: tuple(
        replace(INT16_INT8, name=f"int16-int8-{instruction}", instruction=instruction)
        for instruction in ("pmaddwd_wide_256", "pmaddwd_wide_128")
    ),
}

OPERANDS = {
    operands.name: operands
    for native in (
        FLOAT32,
        BFLOAT16,
        FLOAT16,
        INT8,
        INT8_SQUARES,
        UINT8_INT8,
        UINT8_INT8_PAIRS,
        INT16,
        INT16_INT8,
        *ALTERNATIVES[INT8],
        *ALTERNATIVES[UINT8_INT8],
        *ALTERNATIVES[UINT8_INT8_PAIRS],
        *ALTERNATIVES[INT16],
        *ALTERNATIVES[INT16_INT8],
    )
    for operands in (native, native.emulated)
}

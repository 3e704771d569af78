"""Single calls of operators, drawn at random from the values that the standard allows their attributes.

A family is a function that draws one call: `@family` puts it into `FAMILIES`. The same family, seed and number always
give the same sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper, numpy_helper

Array: TypeAlias = npt.NDArray[Any]
Item = TypeVar("Item")

FLOATS = ("float32", "float32", "float32", "float16", "float64")
INTEGERS = ("int32", "int64", "int8", "uint8", "int16", "uint16", "uint32", "uint64")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0)


@dataclass(frozen=True)
class Sample:
    """One call of an operator.

    Attributes:
        op_type: the operator.
        inputs: in order; None where one is left out.
        attrs: attributes by name.
        opset: version of the operator set.
        fixed: positions of the inputs that are constants of the model.
        outputs: how many outputs are asked for.
        domain: of the operator.
        rtol: relative tolerance, where the result's type does not imply it.
        kinds: number of the element type of each output, where the model has to declare it.
        truth: the outputs, where the standard's evaluator gets them wrong.
    """

    op_type: str
    inputs: tuple[Array | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 22
    fixed: frozenset[int] = frozenset()
    outputs: int = 1
    domain: str = ""
    rtol: float | None = None
    kinds: tuple[int, ...] = ()
    truth: tuple[Array, ...] | None = None

    def told(self) -> str:
        """The call in one line."""
        shown = [
            "-"
            if x is None
            else f"{x.dtype}{list(x.shape)}{'=' + str(x.tolist()) if i in self.fixed and x.size < 9 else ''}"
            for i, x in enumerate(self.inputs)
        ]
        attrs = ", ".join(f"{key}={value}" for key, value in self.attrs.items())
        return f"{self.op_type}-{self.opset}({', '.join(shown)}; {attrs})"


class Draw:
    """Random choices with a seed."""

    def __init__(self, family: str, seed: int, number: int) -> None:
        self.rng = np.random.default_rng([zlib.crc32(family.encode()), seed, number])

    def chance(self, share: float = 0.5) -> bool:
        """True in this share of draws."""
        return bool(self.rng.random() < share)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of some items."""
        return items[int(self.rng.integers(len(items)))]

    def within(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def many(self, count: int, low: int, high: int) -> list[int]:
        """Integers from `low` to `high`, both included."""
        return [self.within(low, high) for _ in range(count)]

    def shape(self, low: int = 0, high: int = 4, largest: int = 6) -> list[int]:
        """A shape of `low` to `high` axes, each of 1 to `largest` elements."""
        return self.many(self.within(low, high), 1, largest)

    def axis(self, rank: int) -> int:
        """An axis, counted from the front or from the back."""
        return self.within(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        """Some of the axes in any order, at least one, each counted from the front or from the back."""
        chosen = self.rng.permutation(rank)[: self.within(1, rank)]
        return [int(a) - (rank if self.chance(0.3) else 0) for a in chosen]

    def reals(self, shape: Sequence[int], dtype: str = "float32", special: float = 0.0) -> Array:
        """Numbers from -4 to 4; a `special` share of them are no numbers, infinite or zero."""
        values = self.rng.uniform(-4, 4, tuple(shape))
        if special:
            places = self.rng.random(tuple(shape)) < special
            values = np.where(places, self.rng.choice(SPECIAL, tuple(shape)), values)
        return np.asarray(values).astype(dtype)

    def integers(
        self, shape: Sequence[int], dtype: str, low: int | None = None, high: int | None = None
    ) -> Array:
        """Integers of a type, all of its range unless limited."""
        limits = np.iinfo(dtype)
        low = int(limits.min) if low is None else max(low, int(limits.min))
        high = int(limits.max) if high is None else min(high, int(limits.max))
        return np.asarray(self.rng.integers(low, high, tuple(shape), dtype=dtype, endpoint=True))

    def numbers(self, shape: Sequence[int], dtype: str, special: float = 0.0) -> Array:
        """Real numbers, or integers of a few digits, or truth values."""
        if dtype == "bool":
            return np.asarray(self.rng.random(tuple(shape)) < 0.5)
        if np.dtype(dtype).kind in "iu":
            return self.integers(shape, dtype, -20, 20)
        return self.reals(shape, dtype, special)

    def extremes(self) -> float:
        """Half of the samples hold special values."""
        return self.pick((0.0, 0.1))


Family = Callable[[Draw], Sample]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Register a family under the name of its function."""
    FAMILIES[function.__name__] = function
    return function


def draw(name: str, seed: int, number: int) -> Sample:
    """Sample `number` of a family."""
    return FAMILIES[name](Draw(name, seed, number))


def model_of(samples: Sequence[Sample]) -> ModelProto:
    """A model that makes some calls, all of one opset, side by side: call 3 reads `i3_0`, … and gives `o3_0`, …"""
    nodes, inputs, outputs, stored = [], [], [], []
    for number, sample in enumerate(samples):
        names = []
        for position, value in enumerate(sample.inputs):
            names.append("" if value is None else f"i{number}_{position}")
            if value is None:
                continue
            if position in sample.fixed:
                stored.append(numpy_helper.from_array(value, names[-1]))
            else:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                inputs.append(helper.make_tensor_value_info(names[-1], kind, value.shape))
        while names and not names[-1]:
            names.pop()
        results = [f"o{number}_{k}" for k in range(sample.outputs)]
        nodes.append(
            helper.make_node(
                sample.op_type, names, results, f"call{number}", domain=sample.domain, **sample.attrs
            )
        )
        for k, name in enumerate(results):
            value_info = helper.make_empty_tensor_value_info(name)
            value_info.type.tensor_type.elem_type = sample.kinds[k] if k < len(sample.kinds) else 0
            outputs.append(value_info)
    graph = helper.make_graph(nodes, "samples", inputs, outputs, stored)
    domains = [helper.make_opsetid("", samples[0].opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def inputs_of(samples: Sequence[Sample]) -> dict[str, Array]:
    """What goes into `model_of` these samples."""
    return {
        f"i{number}_{position}": value
        for number, sample in enumerate(samples)
        for position, value in enumerate(sample.inputs)
        if value is not None and position not in sample.fixed
    }

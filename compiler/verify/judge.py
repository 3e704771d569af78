"""Whether a compiled model agrees with the reference on extreme inputs: NaN, infinities, zeros, large numbers.

Such inputs are also where references disagree with each other: kernels of ONNX Runtime limit their operands and lose
NaN. A value counts as right if one of the authorities (the model's own framework, ONNX Runtime, the standard's
evaluator) gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.onnx.reference_evaluator import Standard
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.verify.compare import EXACT_KINDS, ROUNDING
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.reference import Reference, is_standard
from edgec.compiler.verify.rounding import perturbed_runs

Array: TypeAlias = npt.NDArray[Any]
FLUSHED = 1e-37  # smaller numbers are subnormal, which a processor may be told to take for zero
MOST_EVALUATED = 4 << 20  # elements of all values: the standard's evaluator is slow
# Operators that combine values: kernels that compute blocks of outputs from blocks of inputs, or pad with zeros, carry
# NaN further than the standard's sums do, and ONNX Runtime's maxima lose it.
BLOCKED = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "MultiHeadAttention"})
BLOCKED |= {
    "AveragePool",
    "CumSum",
    "DFT",
    "GRU",
    "LSTM",
    "LRN",
    "RNN",
    "STFT",
    "MaxPool",
    "LpPool",
    "Softmax",
}
BLOCKED |= {"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "MaxUnpool", "LogSoftmax"}


@dataclass(frozen=True)
class Judgement:
    """What became of one set of extreme inputs.

    Attributes:
        inputs: what they hold.
        outcome: in words, for the evidence.
        failure: what is wrong; empty if nothing is.
    """

    inputs: str
    outcome: str
    failure: str = ""

    @property
    def equal(self) -> bool:
        """Whether the outputs were compared and agree."""
        return self.outcome.startswith("equal")


def judge(
    source: SourceModel,
    probe: Probe,
    expected: Arrays,
    got: Arrays,
    budget: float,
    *,
    stored: bool,
    by_standard: bool = False,
) -> Judgement:
    """Compare the outputs for one set of extreme inputs.

    Args:
        source: the model.
        probe: the inputs.
        expected: what the reference gives.
        got: what the artifact gives.
        budget: largest difference of finite values, relative to the output's largest.
        stored: 8-bit integers represent real numbers.
        by_standard: `expected` is from the standard's evaluator, whose convolutions multiply by zeros that they
            insert, and so carry NaN and infinity too far.
    """
    compared = [name for name in expected if name not in probe.open]
    if not compared:
        makers = " and ".join(sorted(set(probe.open.values())))
        return Judgement(probe.name, f"runs; what {makers} makes of them is open")
    blocked, spreads = _is_blocked(source.model), _holds_infinite(probe.inputs) or _holds_infinite(expected)
    if by_standard and blocked and probe.name in ("NaN", "infinity"):
        return Judgement(probe.name, "runs; the standard's evaluator carries them too far to compare")
    authorities, seconded = _authorities(source, probe), ""
    wrong = {name: _Wrong(expected[name], got[name], budget, stored) for name in compared}
    if probe.name == "subnormal numbers":  # what is normalised by them may be anything
        for one in wrong.values():
            one.leave_out_infinite()
    for told, ask in authorities:
        if not any(one.count for one in wrong.values()):
            break
        second = ask()
        if second is not None:
            seconded = told
            for name, one in wrong.items():
                one.absolve(second[name])
    bad = {name: one for name, one in wrong.items() if one.count}
    if not bad:
        return Judgement(probe.name, f"equal, in part to {seconded}" if seconded else "equal")
    if blocked and spreads and all(one.only_spreads for one in bad.values()):
        return Judgement(probe.name, "equal; NaN reaches further than in the reference")
    name, worst = next(pair for pair in bad.items() if not (blocked and spreads and pair[1].only_spreads))
    told = f"output {name!r}: {worst.verdict}"
    if probe.name == "infinity":
        # where a number is divided by infinity or infinity multiplied by what rounds to zero, implementations part
        return Judgement(probe.name, f"differs: {told}")
    return Judgement(probe.name, "differs", told)


STORED = (np.int8, np.uint8, np.int16, np.uint16)  # types of integers that stand for real numbers


class _Wrong:
    """The values of one output that no authority has given yet."""

    def __init__(self, reference: Array, got: Array, budget: float, stored: bool) -> None:
        self.got, self.budget, self.stored = got, budget, stored
        self.reference = reference
        self.mask = self._against(reference)

    def _against(self, reference: Array) -> npt.NDArray[np.bool_]:
        got = self.got
        if reference.shape != got.shape or reference.dtype != got.dtype:
            return np.ones(got.shape or (1,), np.bool_)
        if got.dtype.kind in EXACT_KINDS and not (self.stored and got.dtype in STORED):
            return np.asarray(reference != got)
        a, b = reference.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(all="ignore"):
            scale = np.abs(np.where(np.isfinite(a), a, 0.0)).max(initial=0.0)
            allowed = self.budget * scale + 1e-6 * min(scale, 1.0) + FLUSHED
            allowed = max(allowed, 1.0) if got.dtype.kind in EXACT_KINDS else allowed  # one step
            near = np.abs(np.where(finite, a - b, 0.0)) <= allowed
        same = (np.isnan(a) & np.isnan(b)) | (a == b)
        return np.asarray(~np.where(finite, near, same))

    def absolve(self, reference: Array | tuple[Array, Array]) -> None:
        """Take out the values that another authority gives, or that lie between two perturbed runs of the model."""
        if not isinstance(reference, tuple):
            self.mask &= self._against(reference)
            return
        first, second = (run.astype(np.float64) for run in reference)
        if first.shape != self.got.shape:
            return
        with np.errstate(all="ignore"):
            noise = ROUNDING * np.abs(first - second)
            self.mask &= ~(np.abs(self.got.astype(np.float64) - first) <= np.nanmax(noise, initial=0.0))

    def leave_out_infinite(self) -> None:
        """Leave out what is infinite or NaN in the reference."""
        if self.reference.shape == self.mask.shape and self.reference.dtype.kind == "f":
            self.mask &= np.isfinite(self.reference)

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def only_spreads(self) -> bool:
        """Whether all that is wrong is NaN in place of a number."""
        return (
            self.got.dtype.kind == "f"
            and self.mask.shape == self.got.shape
            and bool(np.isnan(self.got[self.mask]).all())
        )

    @property
    def verdict(self) -> str:
        """What is wrong in words, with an example."""
        total = f"{self.count} of {self.got.size} values differ"
        if self.mask.shape != self.got.shape or self.reference.shape != self.got.shape:
            return "another shape or type"
        place = tuple(int(i) for i in np.argwhere(self.mask)[0])
        return f"{total}, such as {self.got[place]:.6g} in place of {self.reference[place]:.6g}"


def _holds_infinite(arrays: Mapping[str, Array]) -> bool:
    """Whether there is an infinity or NaN that may spread: elsewhere NaN is wrong."""
    return any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays.values())


Answer: TypeAlias = Mapping[str, Any] | None


def _authorities(source: SourceModel, probe: Probe) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Other references, best first, with their names."""

    def rounding() -> Answer:
        runs = perturbed_runs(source, probe.inputs)
        return (
            {port.name: (runs[0][port.name], runs[1][port.name]) for port in source.outputs} if runs else None
        )

    if source.original is not None:
        yield "ONNX Runtime", lambda: _run(lambda: Reference(source), probe.inputs)
    if is_standard(source.reference) and _elements(source.model) <= MOST_EVALUATED:
        yield "the standard's evaluator", lambda: _run(lambda: Standard(source.reference), probe.inputs)
    yield "perturbed runs of the reference", rounding


def _run(make: Callable[[], Any], inputs: Arrays) -> Answer:
    try:
        with np.errstate(all="ignore"):
            answer: Answer = make().run(inputs)
    except ModelError:
        return None
    return answer


def _elements(model: ModelProto) -> int:
    """Elements of all values of a model whose shapes are known."""
    shapes = (v.type.tensor_type.shape.dim for v in (*model.graph.value_info, *model.graph.output))
    return sum(int(np.prod([max(dim.dim_value, 1) for dim in shape], dtype=np.int64)) for shape in shapes)


def _is_blocked(model: ModelProto) -> bool:
    return any(node.op_type in BLOCKED or node.op_type.startswith("Reduce") for node in model.graph.node)

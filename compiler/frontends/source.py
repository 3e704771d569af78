"""The products of the front ends: a cleaned source model, and the Relax module imported from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx
    import tvm

    from edgec.compiler.graph.control import Parts
    from edgec.compiler.options import Bounds


class Reference(Protocol):
    """Runs a source model in the framework that it comes from."""

    @property
    def description(self) -> str:
        """The framework and its version, such as `LiteRT 2.3.0`."""

    def run(self, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by name, for inputs by name in the shapes and types of the model's ports."""

    def spread(self, inputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, float]:
        """The largest difference, by output, between the framework's own implementations on these inputs.

        A compiled model need not agree with the framework more closely than the framework agrees with itself.
        """


@runtime_checkable
class KeepsState(Protocol):
    """A reference of a model with variables of its own, which the framework keeps from run to run."""

    def run_steps(
        self, steps: Sequence[Mapping[str, npt.NDArray[np.generic]]], carried: Mapping[str, str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The outputs of runs one after the other, of which the first begins with the initial state.

        Args:
            steps: the inputs of each run, without those in `carried` from the second on.
            carried: inputs that take an output of the run before, by their names.
        """


@dataclass(frozen=True)
class State:
    """A value that is carried from one run to the next.

    Attributes:
        input: the name of the input that takes it.
        output: the name of the output that is its next value, of the same shape and element type.
        initial: what it begins with; None for zeros.
        origin: a `variable` of the model, a pair found by its `names`, or one that was `declared`.
    """

    input: str
    output: str
    initial: npt.NDArray[np.generic] | None = None
    origin: Literal["variable", "names", "declared"] = "declared"


@dataclass(frozen=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: the name in the source model.
        safe_name: the name as an identifier, unique within the model.
        shape: static dimensions.
        dtype: numpy's name of the element type, such as `float32`.
        symbols: the names of the sizes that are chosen when the model runs, empty where a size is fixed; nothing if all
            are. Their values in `shape` are examples.
    """

    name: str
    safe_name: str
    shape: tuple[int, ...]
    dtype: str
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceNode:
    """One node of the source model's main graph, as the user would find it in the file.

    Attributes:
        index: its position in the graph.
        name: its name in the file, which may be empty.
        op_type: its operator.
        domain: the domain of the operator; empty for the standard's own.
    """

    index: int
    name: str
    op_type: str
    domain: str

    @property
    def label(self) -> str:
        """The node's name, or `Conv#12` (operator and position) when it has none."""
        return self.name or f"{self.op_type}#{self.index}"


@dataclass(frozen=True)
class SourceModel:
    """A source model made ready for import: static shapes, folded constants, recent opset.

    Attributes:
        path: the file it was read from.
        digest: `sha256:…` of that file.
        reference: the model as given, with static input shapes; ONNX Runtime runs it as the reference.
        model: the cleaned model, which computes the same and is compiled.
        inputs, outputs: in the order of the source model.
        nodes: the nodes of the source model's main graph.
        origins: name of a value in `model` to the index into `nodes` of the node it came from.
        labels: the class names stored in the model; its output holds their positions.
        chosen: sizes that neither the user nor the model states, and what they were set to, in words.
        bounds: of the symbolic sizes of the inputs, by name.
        original: runs the source model in its own framework; None where that is ONNX Runtime.
        states: inputs that outputs of the run before feed.
        notes: what was found about states, for the user.
    """

    path: Path
    digest: str
    reference: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[SourceNode, ...]
    origins: Mapping[str, int]
    labels: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    original: Reference | None = None
    states: tuple[State, ...] = ()
    notes: tuple[str, ...] = ()

    def at(self, sizes: Mapping[str, int]) -> SourceModel:
        """The model with other examples of the symbolic sizes."""
        return replace(self, inputs=tuple(_with_sizes(port, sizes) for port in self.inputs))

    def samples(self) -> list[SourceModel]:
        """The model at its smallest sizes, at its largest, and between; itself alone without symbolic sizes."""
        if not self.bounds:
            return [self]
        chosen = (
            {symbol: one.low for symbol, one in self.bounds.items()},
            {symbol: one.high for symbol, one in self.bounds.items()},
            {symbol: one.low + (one.high - one.low) * 2 // 5 for symbol, one in self.bounds.items()},
        )
        distinct = [sizes for n, sizes in enumerate(chosen) if sizes not in chosen[:n]]
        return [self.at(sizes) for sizes in distinct]


def _with_sizes(port: Port, sizes: Mapping[str, int]) -> Port:
    if not port.symbols:
        return port
    shape = [sizes.get(s, old) if s else old for s, old in zip(port.symbols, port.shape, strict=True)]
    return replace(port, shape=tuple(shape))


@dataclass(frozen=True)
class FallbackSegment:
    """A sub-graph for ONNX Runtime.

    Attributes:
        function: the name under which the compiled code calls it.
        model: the sub-graph as an ONNX file.
        inputs, outputs: names of values, in the order of the call.
        nodes: labels of the source's nodes in it.
    """

    function: str
    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ImportedModel:
    """A Relax module with one function `main`: inputs by safe name, constants embedded.

    A binding variable named `n12_…` belongs to `source.nodes[12]`. The function returns one tensor, or a
    tuple when the model has several outputs. Sub-graphs that run in ONNX Runtime (`segments`), branches and loops
    (`parts`) are external functions to it.
    """

    mod: tvm.IRModule
    source: SourceModel
    segments: tuple[FallbackSegment, ...] = ()
    parts: Parts | None = None

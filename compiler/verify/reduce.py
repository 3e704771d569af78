"""Cut a failing model to a small one that fails in the same way, for a bug report.

Delta debugging: first the nodes (halves, quarters, single ones), then the sizes of axes, then the weights, which become
short patterns where the failure stays. Every try compiles and verifies in a process of its own, so that a crash is a
failure like others.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto

from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends.onnx.shape_inference import infer_shapes
from edgec.compiler.frontends.relax.fallback import UntypedValue, cut, is_tensor
from edgec.compiler.options import Bounds, CompileOptions
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.verify import shrink
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.trial import Failure, Request, Trials

LIMIT_S = 600.0
WHOLE_S = 300.0  # for the whole model at least
GUESSES = 50  # operators whose results' types are guessed
SLOWEST_TRY = 4.0  # times as long as the whole model took


@dataclass(frozen=True)
class Reduced:
    """The smallest model that still fails, with its inputs.

    Attributes:
        model: an ONNX file.
        inputs: what it fails on.
        nodes: labels of its nodes.
        failure: how it fails.
        tries: how many models were compiled on the way.
        exhausted: the time was up before nothing more could be cut.
    """

    model: bytes
    inputs: Arrays
    nodes: tuple[str, ...]
    failure: Failure
    tries: int
    exhausted: bool


def reduce_model(
    path: Path,
    target: str,
    options: CompileOptions,
    values: Path | None = None,
    progress: Progress | None = None,
    limit_s: float = LIMIT_S,
    fallback: bool | None = None,
) -> Reduced:
    """Find a small part of a model that fails as the whole does.

    Args:
        path: the model that fails.
        target: the name of the hardware for which it fails.
        options: with which it fails.
        values: an `.npz` file of inputs on which it fails; None generates them.
        progress: its bar shows the time that is left.
        limit_s: seconds after which the smallest so far is the result.
        fallback: whether ONNX Runtime may run operators; None prefers it if the model fails so, too.

    Raises:
        CompilerError: the model does not fail, or its front end refuses it before there is a graph to cut.
    """
    with Trials() as trials, tempfile.TemporaryDirectory(prefix="edgec-reduce-") as folder:
        search = _Search(trials, Path(folder), target, options, progress or Silent(), limit_s)
        whole = search.begin(path, values, (True, False) if fallback is None else (fallback,))
        search.cut_nodes()
        search.cut_sizes()
        search.cut_weights()
        return search.result(whole)


class _Search:
    """The smallest model so far, and the way to try another."""

    def __init__(
        self,
        trials: Trials,
        folder: Path,
        target: str,
        options: CompileOptions,
        progress: Progress,
        limit_s: float,
    ) -> None:
        self._trials, self._folder, self._target, self._options = trials, folder, target, options
        self._progress, self._limit_s, self._begin = progress, limit_s, time.monotonic()
        self._shown, self._fallback = 0, True
        self.tries, self.exhausted, self.try_s = 0, False, 120.0
        self.model, self.inputs, self.failure = ModelProto(), Arrays(), Failure("", "", "")
        self._known: dict[bytes, Failure | None] = {}  # how each model failed that was tried

    def begin(self, path: Path, values: Path | None, ways: Sequence[bool]) -> Failure:
        """See how the whole model fails, and read it as a graph with the values of all its nodes."""
        self._progress.stage("reduce", int(self._limit_s))
        shapes = {
            name: tuple(size.high if isinstance(size, Bounds) else size for size in shape)
            for name, shape in self._options.input_shapes.items()
        }
        given, began, whole = str(values) if values else "", time.monotonic(), None
        for self._fallback in ways:
            budget, limit_s = self._options.error_budget, max(WHOLE_S, self._limit_s)
            whole = self._trials.run(
                Request(str(path), self._target, given, shapes, budget, self._fallback, limit_s)
            )
            if whole is not None:
                break
        if whole is None:
            raise CompilerError(
                f"{path}: compiles and matches for {self._target}; there is nothing to reduce"
            )
        self.try_s = max(10.0, SLOWEST_TRY * (time.monotonic() - began))
        read = Request(str(path), self._target, given, shapes=shapes, values=str(self._folder))
        why = self._trials.run(read)
        if why is None:
            self.model = onnx.load(self._folder / "model.onnx")
            names = json.loads((self._folder / "names.json").read_text(encoding="utf-8"))
            with np.load(self._folder / "values.npz") as file:
                self._values = {name: file[str(k)] for k, name in enumerate(names)}
            self.inputs = {v.name: self._values[v.name] for v in self.model.graph.input}
        else:
            self.model, self._values = self._as_stored(path, whole), Arrays()
        self.failure = whole
        return whole

    def _as_stored(self, path: Path, whole: Failure) -> ModelProto:
        """The graph of a file that cannot even be made ready, if it is ONNX."""
        try:
            model = onnx.load(path)
            if model.graph.node:
                return model
        except Exception:  # noqa: BLE001, S110 - of protobuf and of its data files; the message below says what to do
            pass
        raise CompilerError(
            f"{path}: fails before there is a graph to cut ({whole.message.splitlines()[0]}): attach the file itself"
        )

    def fails(self, model: ModelProto, inputs: Arrays) -> bool:
        """Whether a model fails as the whole does; if so, it is the smallest so far."""
        key = _digest(model, inputs)
        if key not in self._known:
            if self._is_over():
                return False
            self._known[key] = self._try(model, inputs)
        failure = self._known[key]
        if failure is None or failure.signature != self.failure.signature:
            return False
        self.model, self.inputs, self.failure = model, inputs, failure
        return True

    def _try(self, model: ModelProto, inputs: Arrays) -> Failure | None:
        """How a model fails."""
        self.tries += 1
        file, beside = self._folder / "try.onnx", self._folder / "try.npz"
        file.write_bytes(model.SerializeToString())
        complete = bool(inputs) and {v.name for v in model.graph.input} <= inputs.keys()
        if complete:
            np.savez(beside, **inputs)  # type: ignore[arg-type]
        shapes = {name: array.shape for name, array in inputs.items()}
        failure = self._trials.run(
            Request(
                str(file),
                self._target,
                str(beside) if complete else "",
                shapes,
                self._options.error_budget,
                self._fallback,
                self.try_s,
            )
        )
        self._tell()
        return failure

    def _is_over(self) -> bool:
        self.exhausted = self.exhausted or time.monotonic() - self._begin > self._limit_s
        return self.exhausted

    def _tell(self) -> None:
        passed = min(int(time.monotonic() - self._begin), int(self._limit_s))
        self._progress.advance(passed - self._shown)
        self._shown = passed

    def cut_nodes(self) -> None:
        """Leave out nodes: the values that they made become inputs."""
        model, typed = self.model, self._types(self.model)
        labels = {i: node.name or f"{node.op_type}#{i}" for i, node in enumerate(model.graph.node)}

        def fails(members: Sequence[int]) -> bool:
            try:
                piece = cut(model, list(members), typed, labels)
            except UntypedValue:
                return False
            given = {name: self._values[name] for name in piece.inputs if name in self._values}
            return self.fails(ModelProto.FromString(piece.model), given)

        every = list(range(len(model.graph.node)))
        end = _smallest(1, len(every), lambda n: fails(every[:n]))
        begin = end - _smallest(1, end, lambda n: fails(every[end - n : end]))
        _minimise(every[begin:end], fails)

    def _types(self, model: ModelProto) -> dict[str, ValueInfoProto]:
        """The types of all values, from what they are where the model runs, else by inference."""
        typed = _inferred(model)
        for name, array in self._values.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            typed[name] = onnx.helper.make_tensor_value_info(name, kind, array.shape)
        return typed

    def cut_sizes(self) -> None:
        """Make axes shorter, each size in all its places."""
        for old in shrink.sizes_of(self.model):
            for new in shrink.smaller_sizes(old):
                if self.fails(*shrink.resized(self.model, self.inputs, old, new)):
                    break

    def cut_weights(self) -> None:
        """Store weights and inputs as short patterns."""
        names = shrink.large_weights(self.model)
        if names and not self.fails(shrink.patterned(self.model, names), self.inputs):
            for name in names:
                self.fails(shrink.patterned(self.model, [name]), self.inputs)
        if self.inputs:
            self.fails(self.model, shrink.simplified(self.inputs))

    def result(self, whole: Failure) -> Reduced:
        """The smallest model that fails."""
        nodes = (node for node in self.model.graph.node if not node.name.startswith(shrink.MADE))
        labels = (node.name or node.op_type for node in nodes)
        return Reduced(
            self.model.SerializeToString(),
            self.inputs,
            tuple(labels),
            self.failure or whole,
            self.tries,
            self.exhausted,
        )


def _digest(model: ModelProto, inputs: Arrays) -> bytes:
    """What tells a model with its inputs from others."""
    found = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name, array in sorted(inputs.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.digest()


def _inferred(given: ModelProto) -> dict[str, ValueInfoProto]:
    """The types that can be inferred; the result of an operator that nothing knows is taken to be like its operand."""
    model = ModelProto()
    model.CopyFrom(given)
    typed: dict[str, ValueInfoProto] = {}
    for _ in range(GUESSES):
        try:
            graph = infer_shapes(model).graph
        except (RuntimeError, ValueError):  # of onnx, about a graph that contradicts itself
            graph = model.graph
        typed = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output) if is_tensor(v)}
        known = typed.keys()
        fed = (node for node in graph.node if node.input and node.input[0] in known)
        unknown = next((node for node in fed if not known >= {name for name in node.output if name}), None)
        if unknown is None:
            break
        shown = {value.name: value for value in model.graph.output}
        for name in unknown.output:
            value = ValueInfoProto(name=name)
            value.type.CopyFrom(typed[unknown.input[0]].type)
            if name in shown:
                shown[name].type.CopyFrom(value.type)
            else:
                model.graph.value_info.append(value)
    return typed


def _smallest(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """The smallest number for which `fails`, if failing once means failing above; `high` is known to."""
    while low < high:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _minimise(members: list[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Leave out as many members as possible: halves, then quarters, down to single ones (Zeller's ddmin)."""
    parts = 2
    while len(members) > 1:
        size = -(-len(members) // parts)
        for begin in range(0, len(members), size):
            rest = members[:begin] + members[begin + size :]
            if rest and fails(rest):
                members, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(members))
    return members

"""Reduce a failing model to the smallest run of nodes that still fails in the same way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgec.compiler.errors import CompilerError
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.relax.fallback import cut
from edgec.compiler.frontends.relax.tvm_converters import TVM_ERRORS, telling_line
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.verify.inputs import Arrays
from edgec.compiler.verify.layers import open_up
from edgec.compiler.verify.reference import Reference
from edgec.compiler.verify.run import Measure, verify
from edgec.targets import EdgecError, Target

DEFECTS = TVM_ERRORS


@dataclass(frozen=True)
class Failure:
    """How a model fails: the kind of error, and its message."""

    kind: str
    message: str


@dataclass(frozen=True)
class Reduced:
    """The smallest model that still fails, with its inputs."""

    model: bytes
    inputs: Arrays
    nodes: tuple[str, ...]
    failure: Failure
    tries: int


def reduce_model(
    path: Path, target: Target, options: CompileOptions, inputs: Arrays, progress: Progress | None = None
) -> Reduced:
    """Find the smallest run of nodes of the cleaned model that still fails.

    Args:
        path: the model that fails.
        target: where it fails.
        options: with which it fails.
        inputs: on which it fails.

    Raises:
        CompilerError: the model does not fail.
        ModelError: it cannot even be read.
    """
    progress = progress or Silent()
    opened = open_up(load_source(path, options))
    model, values = opened.model, {**inputs, **Reference(opened).run(inputs)}
    types = {v.name: v for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    labels = {i: node.name or f"{node.op_type}#{i}" for i, node in enumerate(model.graph.node)}
    count = len(model.graph.node)
    progress.stage("reduce")
    tries: dict[tuple[int, int], tuple[Failure | None, bytes, Arrays]] = {}

    def attempt(begin: int, end: int) -> Failure | None:
        if (begin, end) not in tries:
            piece = cut(model, list(range(begin, end)), types, labels)
            given = {name: values[name] for name in piece.inputs}
            tries[begin, end] = (_failure(piece.model, given, target, options), piece.model, given)
            progress.advance()
        return tries[begin, end][0]

    whole = attempt(0, count)
    if whole is None:
        raise CompilerError(f"{path}: compiles and matches for {target.name}; there is nothing to reduce")
    end = _smallest(1, count, lambda n: _same(attempt(0, n), whole))
    begin = end - _smallest(1, end, lambda n: _same(attempt(end - n, end), whole))
    failure, content, given = tries[begin, end]
    assert failure is not None
    return Reduced(content, given, tuple(labels[i] for i in range(begin, end)), failure, len(tries))


def _same(found: Failure | None, wanted: Failure) -> bool:
    return found is not None and found.kind == wanted.kind


def _smallest(low: int, high: int, fails: Callable[[int], bool]) -> int:
    """The smallest number for which `fails`, if failing once means failing above; `high` is known to."""
    while low < high:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _failure(content: bytes, inputs: Arrays, target: Target, options: CompileOptions) -> Failure | None:
    """How a piece fails, or None when it compiles and matches."""
    from edgec.compiler import pack
    from edgec.compiler.frontends import to_relax
    from edgec.compiler.lower import lower

    shapes = {name: tuple(np.asarray(value).shape) for name, value in inputs.items()}
    own = replace(options, input_shapes=shapes, tune="none")
    with tempfile.TemporaryDirectory(prefix="edgec-reduce-") as folder:
        path, artifact = Path(folder) / "piece.onnx", Path(folder) / "piece.edge"
        path.write_bytes(content)
        try:
            imported = to_relax(load_source(path, own), fallback_allowed=own.fallback)
            lowered = lower(imported.mod, target, own, Silent(), parts=imported.parts)
            config = pack.make_config(
                imported.source,
                lowered,
                target,
                own,
                name="piece",
                version="1",
                card=None,
                segments=imported.segments,
            )
            pack.write(artifact, config, lowered, segments=imported.segments)
            verify(
                artifact,
                imported.source,
                target,
                inputs,
                threads=own.threads or 1,
                budget=own.error_budget,
                measure=Measure(),
            ).require()
        except EdgecError as error:
            return Failure(type(error).__name__, str(error))
        except DEFECTS as error:
            return Failure(type(error).__name__, telling_line(error))
    return None

"""The compiler's errors: all but `InternalError` are for the user to fix.

- EdgecError
    - CompilerError (1)
        - ModelError: the model's file is damaged, hostile or not a model at all
        - UnsupportedModel: operators that cannot be compiled
        - KernelUnsupported: the target's hardware cannot compute a part of the model
        - NoBackend: no back end compiles for the target's kind of device
        - NotFaster: the result is slower than ONNX Runtime, or that could not be measured, and it had to be faster
        - VerificationFailed: the compiled model does not compute what the source model computed
        - ToolMissing: something that the compile needs is not installed here, or in another version
        - InternalError: a defect of edgec
    - UsageError (2)
        - InputShapeError: an input's name or shape that does not fit the model, or is missing
        - TargetLacksPrecision: arithmetic that the target's processor does not have
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.targets.errors import EdgecError, UsageError


def opening(error: BaseException) -> str:
    """The first line of another library's error message, or its class if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


class CompilerError(EdgecError):
    """A compile that cannot succeed as requested."""


class ModelError(CompilerError):
    """The model's file is damaged, hostile, or no model."""


class KernelUnsupported(CompilerError):
    """The target's back end cannot make a kernel of the model.

    Attributes:
        nodes: the source nodes that it is made of, where known: ONNX Runtime may run those.
    """

    def __init__(self, message: str, nodes: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class NoBackend(CompilerError):
    """No back end is registered for the target's kind of device."""


class InputShapeError(UsageError):
    """An input name or shape that does not fit the model, or one that has to be given."""


class TargetLacksPrecision(UsageError):
    """The requested precision needs arithmetic that the target's processor lacks."""


class VerificationFailed(CompilerError):
    """The compiled model's outputs differ from the reference by more than the error budget."""


class NotFaster(CompilerError):
    """`--require-faster`: the compiled model is slower than ONNX Runtime, or its speed could not be measured."""


class ToolMissing(CompilerError):
    """A program or package that this needs is absent, or present in a version that does not work."""


class InternalError(CompilerError):
    """A defect of edgec rather than of the model; the original exception is its `__cause__`."""


@dataclass(frozen=True)
class Unsupported:
    """One node that cannot be compiled, with the reason and the way out."""

    index: int
    node: str
    op_type: str
    domain: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        domain = self.domain or "ai.onnx"
        return f"{self.op_type} ({domain}) at {self.node!r}: {self.reason}"


class UnsupportedModel(CompilerError):
    """Nodes of the model cannot be compiled; `nodes` lists all, the message groups them by kind."""

    def __init__(self, nodes: Sequence[Unsupported]) -> None:
        self.nodes = tuple(nodes)
        alike: dict[tuple[str, str, str], list[str]] = {}
        for node in self.nodes:
            alike.setdefault((node.op_type, node.domain or "ai.onnx", node.reason), []).append(node.node)
        told: dict[str, list[str]] = {}  # by reason
        for (op_type, domain, reason), names in list(alike.items())[:8]:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            kind = f"{op_type} ({domain}) at {', '.join(map(repr, names[:4]))}{more}"
            told.setdefault(reason, []).append(kind)
        rest = f"; and {len(alike) - 8} other kinds" if len(alike) > 8 else ""
        kinds = "; ".join(f"{', '.join(kinds)}: {reason}" for reason, kinds in told.items())
        remedies = dict.fromkeys(node.remedy for node in self.nodes)
        super().__init__(f"cannot compile {kinds}{rest}.\n{' '.join(list(remedies)[:2])}")

"""The compiler's errors, all of them a user can mend.

- EdgecError
    - CompilerError (1)
        - ModelError: the model's file is damaged, hostile or not a model at all
        - UnsupportedModel: operators that cannot be compiled
        - VerificationFailed: the compiled model does not compute what the source model computed
        - ToolMissing: something that the compile needs is not installed here, or in another version
    - UsageError (2)
        - InputShapeError: an input's name or shape that does not fit the model, or is missing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgec.targets.errors import EdgecError, UsageError


class CompilerError(EdgecError):
    """A compile that cannot succeed as asked."""


class ModelError(CompilerError):
    """The model's file is damaged, hostile, or no model."""


class InputShapeError(UsageError):
    """An input name or shape that does not fit the model, or one that has to be given."""


class VerificationFailed(CompilerError):
    """The compiled model's outputs differ from the reference by more than the error budget."""


class ToolMissing(CompilerError):
    """A program or package that this needs is absent, or present in a version that does not work."""


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
    """Nodes of the model cannot be compiled; ``nodes`` lists them all."""

    def __init__(self, nodes: Sequence[Unsupported]) -> None:
        self.nodes = tuple(nodes)
        shown = "; ".join(str(node) for node in self.nodes[:8])
        more = f"; and {len(self.nodes) - 8} more" if len(self.nodes) > 8 else ""
        remedies = dict.fromkeys(node.remedy for node in self.nodes)
        super().__init__(f"cannot compile {shown}{more}.\n{' '.join(list(remedies)[:2])}")

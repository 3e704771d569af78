"""The result of a front end, and the helpers that all share: files, digests and optional packages.

A front end is a module with a function `load(path, options) -> Loaded`. It is imported only when a file of its format
is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from onnx import ModelProto

from edgec.compiler.errors import ModelError, ToolMissing
from edgec.compiler.frontends.source import Reference, State


@dataclass(frozen=True)
class Loaded:
    """A model file as a front end reads it.

    Attributes:
        model: ONNX, computing the same as the source.
        digest: `sha256:…` of the file.
        original: runs the file in its own framework, where that is installed.
        variables: the model's own state, as inputs and outputs of `model`.
    """

    model: ModelProto
    digest: str
    original: Reference | None = None
    variables: tuple[State, ...] = ()


def require(module: str, extra: str, path: Path) -> ModuleType:
    """Import a package that a front end requires.

    Raises:
        ToolMissing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ToolMissing(
            f"{path}: reading it needs {error.name or module}, which is not installed: "
            f"pip install 'edgec[{extra}]'"
        ) from error


def require_unloaded(module: str, extra: str, path: Path, other_way: str = "") -> None:
    """Check that a package is installed, without importing it: another process will use it.

    Raises:
        ToolMissing: it is not; the message ends with `other_way`.
    """
    if importlib.util.find_spec(module) is None:
        raise ToolMissing(
            f"{path}: reading it needs {module}, which is not installed: pip install 'edgec[{extra}]'{other_way}"
        )


def read_file(path: Path) -> tuple[bytes, str]:
    """A file's content and its digest `sha256:…`.

    Raises:
        ModelError: unreadable.
    """
    import hashlib

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    return content, f"sha256:{hashlib.sha256(content).hexdigest()}"

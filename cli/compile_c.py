"""`edgec compile --format c`: a model as a library for C programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgec.cli.console import out
from edgec.targets import Target, UsageError

if TYPE_CHECKING:
    from edgec.compiler.c_library.build import CLibrary
    from edgec.compiler.pipeline import CompileResult


class Format(StrEnum):
    """What is written."""

    edge = "edge"
    c = "c"


class Libc(StrEnum):
    """The C library of the system that a C program is for."""

    gnu = "gnu"
    musl = "musl"


class Weights(StrEnum):
    """Where the weights of a C library are."""

    linked = "linked"
    file = "file"


FORMAT_HELP = (
    "An artifact (edge), or a library for C programs (c): header and static library, without Python and TVM."
)
LIBC_HELP = "With --format c: the C library of the system."
WEIGHTS_HELP = "With --format c: weights in the library, or in a file to map."


def check_options(output: Path | None, targets: int, sets: int, *, bundle_runtime: bool) -> None:
    """Refuse options that a C library has no use for.

    Raises:
        UsageError: there are several targets or sets of input shapes, a runtime to bundle, or a file where the folder
            should be.
    """
    if targets > 1:
        raise UsageError("a C library is for one target: compile for each on its own")
    if sets > 1:
        raise UsageError(
            "a C library takes one set of input shapes: compile one for each, with a --name of its own"
        )
    if bundle_runtime:
        raise UsageError("--bundle-runtime is for artifacts: a C library needs no runtime")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: --format c writes a folder, and this is a file")


@contextmanager
def place_of_artifact(form: Format, output: Path | None) -> Iterator[Path | None]:
    """Where the artifact is written: for a C library, which is made of a verified one, for a moment only."""
    if form is Format.edge:
        yield output
        return
    with TemporaryDirectory(prefix="edgec-c-") as folder:
        yield Path(folder) / "verified.edge"


def write(
    result: CompileResult, target: Target, output: Path | None, libc: Libc, weights: Weights
) -> CLibrary:
    """Write the C library of a model that was compiled and verified."""
    from edgec.compiler.c_library.build import build_c_library

    folder = output or Path(f"{result.config.name}-{target.name}")
    return build_c_library(
        folder, result.config, result.lowered, target, result.initial, libc=libc.value, weights=weights.value
    )


def to_json(library: CLibrary) -> dict[str, Any]:
    """Return what was written for scripts."""
    fixed, each = library.memory
    return {
        "folder": str(library.folder),
        "name": library.name,
        "files": dict(library.files),
        "code_bytes": library.code_bytes,
        "memory_bytes": {"fixed": fixed, "per_thread": each},
        "stack_bytes": library.stack,
    }


def show(library: CLibrary) -> None:
    """Print what was written."""
    from rich.filesize import decimal as size

    files = ", ".join(f"{name} {size(count)}" for name, count in library.files.items())
    fixed, each = library.memory
    out.print(f"{library.folder}: {files}", soft_wrap=True, markup=False)
    out.print(f"  needs {size(fixed + each)} of memory and {size(library.stack)} of stack with one thread")

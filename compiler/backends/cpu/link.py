"""Link compiled objects into one shared library, for any ELF target, with the linker that ziglang carries."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm

from edgec.targets.errors import EdgecError


class LinkError(EdgecError):
    """The linker failed; the message contains its output."""

    exit_code = 1


def _run_linker(output: str, objects: Sequence[str]) -> None:
    # Maths functions and libtvm_runtime's symbols resolve in the process that loads the library.
    command = [
        sys.executable, "-m", "ziglang", "ld.lld", "-shared", "--build-id=none", "--strip-all",
        "-z", "noexecstack", "--gc-sections", "-o", output, *objects,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LinkError(f"linking the compiled model failed: {done.stderr.strip()[:500]}")


def link(executable: Any, objects: Sequence[bytes] = ()) -> bytes:  # noqa: ANN401  (a VMExecutable or a Module)
    """The shared library of a built module and of further object files: same input, same bytes.

    Raises:
        LinkError: the linker refused the objects.
    """

    def compile_objects(output: str, objects: Sequence[str], **_: object) -> None:
        _run_linker(output, objects)

    compile_objects.object_format = "o"  # type: ignore[attr-defined]
    module = executable.mod if hasattr(executable, "mod") else executable
    with tempfile.TemporaryDirectory(prefix="edgec-link-") as folder:
        path, workspace = Path(folder) / "model.so", Path(folder) / "objects"
        workspace.mkdir()
        if not isinstance(module, tvm.runtime.Module):
            raise TypeError(f"cannot link a {type(module).__name__}")
        further = [workspace / f"kernel{number}.o" for number in range(len(objects))]
        for file, content in zip(further, objects, strict=True):
            file.write_bytes(content)
        module.export_library(
            str(path), fcompile=compile_objects, workspace_dir=str(workspace), addons=list(map(str, further))
        )
        return path.read_bytes()

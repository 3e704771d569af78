"""The C compiler and linker that ziglang carries, for any of our targets and both C libraries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from edgec.compiler.c_library.objects import hide_symbols
from edgec.compiler.errors import ToolMissing
from edgec.targets.errors import EdgecError
from edgec.targets.target import Target

Libc = Literal["gnu", "musl"]
ARCHITECTURES = ("x86_64", "aarch64")
# Code is the same bytes wherever it is compiled, so no paths and no build identifiers.
FLAGS = (
    "-std=gnu11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fno-ident",
    "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", "-Wno-pedantic",
)  # fmt: skip


class BuildFailed(EdgecError):
    """The C compiler or the linker failed; the message contains its output."""

    exit_code = 1


def sources() -> Path:
    """The folder of the runtime's C sources."""
    import edgec.runtime

    return Path(next(iter(edgec.runtime.__path__))) / "c"


def triple(target: Target, libc: Libc) -> str:
    """The target as zig names it, with the oldest glibc that artifacts run with."""
    version = f".{target.min_glibc}" if libc == "gnu" and target.min_glibc else ""
    return f"{target.arch}-linux-{libc}{version}"


def compile_c(source: Path, output: Path, target: Target, libc: Libc, flags: Sequence[str] = ()) -> None:
    """Compile a C or assembly file to an object file."""
    run_zig(
        "cc", "-target", triple(target, libc), "-c", *FLAGS, *flags, f"-I{sources()}",
        f"-ffile-prefix-map={source.parent}=.", "-o", str(output), str(source),
    )  # fmt: skip


def join_objects(objects: Sequence[Path], output: Path, visible: str) -> bytes:
    """One object of several, in which only symbols that begin with `visible` can be seen from outside."""
    run_zig(
        "ld.lld", "-r", "--force-group-allocation", "--build-id=none", "--strip-debug", "-o", str(output),
        *map(str, objects),
    )  # fmt: skip
    return hide_symbols(output.read_bytes(), lambda name: name.startswith(visible))


def run_zig(*command: str) -> None:
    """Run one of ziglang's tools.

    Raises:
        ToolMissing: ziglang is not installed.
        BuildFailed: the tool failed.
    """
    if find_spec("ziglang") is None:
        raise ToolMissing("ziglang is not installed: pip install 'edgec[compiler]'")
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildFailed(f"building the C library failed: {done.stderr.strip()[:2000]}")

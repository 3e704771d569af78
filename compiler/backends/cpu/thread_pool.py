"""The library that goes into each artifact: the thread pool (`thread_pool.c`, and `pool.c` of the runtime's C sources)
and runs without TVM's virtual machine (`straight_calls.c`).

It needs nothing but the C library of the device. The runtime loads it once for all artifacts of a process
(`edgec.runtime.execution.pool`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import edgec.runtime
from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.errors import ToolMissing

SOURCE = Path(__file__).with_suffix(".c")
C_SOURCES = Path(next(iter(edgec.runtime.__path__))) / "c"
_SOURCES = (SOURCE, SOURCE.with_name("straight_calls.c"), C_SOURCES / "pool.c")
_HEADER = C_SOURCES / "pool.h"
_FLAGS = (
    "-O2", "-std=c11", "-fPIC", "-ffreestanding", "-nostdlib", "-nostdinc", "-fno-stack-protector",
    "-fno-sanitize=all", "-mcpu=baseline", "-Wall", "-Wextra", "-Werror", "-g0",
)  # fmt: skip
_LINK = ("-shared", "--build-id=none", "--strip-all", "-z", "noexecstack", "--gc-sections")


def pool_library(arch: str, cache_dir: Path | None) -> bytes:
    """The shared library for Linux on `arch`; compiled once and then read from the cache.

    Raises:
        ToolMissing: the C compiler that comes with ziglang failed.
    """
    cache = ObjectCache(cache_dir)
    texts = [source.read_text(encoding="utf-8") for source in (*_SOURCES, _HEADER)]
    key = key_of("pool", metadata.version("ziglang"), arch, *texts, *_FLAGS, *_LINK)
    found = cache.get(key)
    if found is None:
        found = _compile(arch)
        cache.put(key, found)
    return found


def _compile(arch: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgec-pool-") as folder:
        library, objects = Path(folder) / "pool.so", []
        for source in _SOURCES:
            objects.append(made := str(Path(folder) / f"{source.stem}.o"))
            _zig(
                "cc",
                "-target",
                f"{arch}-linux-gnu",
                *_FLAGS,
                f"-I{_HEADER.parent}",
                "-c",
                "-o",
                made,
                str(source),
            )
        _zig("ld.lld", *_LINK, "-o", str(library), *objects)
        return library.read_bytes()


def _zig(*arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolMissing(f"the thread pool cannot be compiled: {done.stderr.strip()[:500]}")

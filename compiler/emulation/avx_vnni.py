"""AVX-VNNI on a processor of x86-64 without it: the code runs as it is, and its instructions that trap are carried out.

qemu translates none of them. A library (`avx_vnni.c`) handles the trap; Python loads it when it starts, through a
`sitecustomize` in a folder of its own, so that the processes which a program starts have it, too. Values are exact, and
times say nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.errors import ToolMissing
from edgec.runtime.artifact.writer import replacing
from edgec.targets import Target, machine_arch, machine_features
from edgec.targets.features import AVX_VNNI

_SOURCE = Path(__file__).with_suffix(".c")
_LIBRARY = "avx_vnni.so"
_COMPILE = (
    "cc", "-target", "x86_64-linux-gnu.2.17", "-O2", "-std=gnu11", "-g0", "-fPIC", "-fno-ident", "-fno-sanitize=all",
    "-Wall", "-Wextra", "-Werror", "-shared", "-Wl,--build-id=none", "-s",
)  # fmt: skip
_AT_START = f"""\
import ctypes
import pathlib

from edgec.targets.detection import emulate

ctypes.CDLL(str(pathlib.Path(__file__).with_name({_LIBRARY!r})))
emulate({{{AVX_VNNI!r}}})
"""


def lacks_only_vnni(target: Target) -> bool:
    """Whether this machine would run code for `target` if it had AVX-VNNI."""
    here = target.arch == machine_arch() == "x86_64" and target.device_kind == "cpu"
    return here and target.features - machine_features() == {AVX_VNNI}


@dataclass(frozen=True)
class VnniEmulator:
    """Python as it runs here, with AVX-VNNI.

    Attributes:
        folder: where the library is put.
    """

    folder: Path

    @property
    def description(self) -> str:
        """What the code runs on."""
        return "this machine with AVX-VNNI emulated"

    @property
    def is_hardware(self) -> bool:
        """False: an emulated instruction takes a microsecond."""
        return False

    def command(
        self, arguments: list[str], python_path: Path | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run Python with these arguments; `edgec` is installed here.

        Raises:
            ToolMissing: the C compiler that comes with ziglang failed.
        """
        content = _library()
        place = self.folder / f"avx-vnni-{key_of(_AT_START, content.hex())[:16]}"
        _put(place / _LIBRARY, content)
        _put(place / "sitecustomize.py", _AT_START.encode())
        paths = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
        return [sys.executable, *arguments], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _put(path: Path, content: bytes) -> None:
    """Write a file, unless it has this content already: what is damaged is replaced."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    with replacing(path) as file:
        file.write(content)


def _library() -> bytes:
    """The library; compiled once and then read from the cache."""
    cache = ObjectCache(None)
    key = key_of("avx_vnni", metadata.version("ziglang"), _SOURCE.read_text(encoding="utf-8"), *_COMPILE)
    found = cache.get(key)
    if found is None:
        found = _compiled()
        cache.put(key, found)
    return found


def _compiled() -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgec-vnni-") as folder:
        made = Path(folder) / _LIBRARY
        command = [sys.executable, "-m", "ziglang", *_COMPILE, "-o", str(made), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolMissing(f"the emulation of AVX-VNNI cannot be compiled: {done.stderr.strip()[:500]}")
        return made.read_bytes()

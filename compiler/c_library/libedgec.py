"""Build libedgec, with which C programs run artifacts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgec.compiler.c_library.build import ENGINE, VARYING
from edgec.compiler.c_library.objects import archive
from edgec.compiler.c_library.toolchain import FLAGS, Libc, compile_c, join_objects, run_zig, sources, triple
from edgec.runtime.artifact.writer import replacing
from edgec.runtime.versions import RUNTIME_ABI
from edgec.targets.target import Target

SOURCES = (
    "edgec.c", "artifact.c", "json.c", "table.c", "elf.c", "read_machine.c", *VARYING, *ENGINE,
)  # fmt: skip
HEADER, STATIC, SHARED = "edgec.h", "libedgec.a", "libedgec.so"


@dataclass(frozen=True)
class LibEdgec:
    """What was written: the folder, and sizes in bytes by file name."""

    folder: Path
    files: dict[str, int]


def build_libedgec(folder: Path, target: Target, libc: Libc = "gnu") -> LibEdgec:
    """Write the header, the static and the shared library for a target's architecture into `folder`.

    Raises:
        BuildFailed, ToolMissing: the compiler failed, or is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgec-c-") as temporary:
        work, objects = Path(temporary), []
        for name in SOURCES:
            objects.append(work / f"{Path(name).stem}.o")
            compile_c(sources() / name, objects[-1], target, libc, [f'-DEDGEC_RUNTIME_ABI="{RUNTIME_ABI}"'])
        joined = join_objects(objects, work / "joined.o", "edgec_")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / STATIC) as file:
            file.write(archive({"edgec.o": joined}))
        (work / "edgec.o").write_bytes(joined)
        run_zig(
            "cc", "-target", triple(target, libc), "-shared", *FLAGS, "-Wl,--build-id=none", "-s",
            f"-Wl,-soname,{SHARED}", "-o", str(work / SHARED), str(work / "edgec.o"), "-lm", "-lpthread",
        )  # fmt: skip
        # a program may have the old library mapped: it is replaced, not written over
        for made in (work / SHARED, sources() / HEADER):
            with replacing(folder / made.name) as file:
                file.write(made.read_bytes())
    return LibEdgec(folder, {name: (folder / name).stat().st_size for name in (HEADER, STATIC, SHARED)})

"""Copies of installed runtimes whose libraries see a processor with AVX2 and nothing beyond.

ONNX Runtime, OpenVINO and LiteRT choose their kernels by `cpuid`, and not all can be told otherwise. In a copy of each
package, every `cpuid` that a disassembler finds becomes an undefined instruction of the same length; the handler in
`cpuid.c` answers it. Everything else runs as it is.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgec.targets.errors import EdgecError

PACKAGES = ("onnxruntime", "openvino", "ai_edge_litert")
CPUID, TRAP = b"\x0f\xa2", b"\xd6\xa2"
LIBRARY, SITE, DONE = "libcpuid.so", "site", "made"
SAMPLED_S = 0.2
RESTRICTED = "AVX2"  # what the copies see at most
LOADABLE, EXECUTABLE = 1, 1  # of a program header: type, flag
NO_AVX512 = (
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512CD,-AVX512DQ"  # for copies and string functions
)


class CannotRestrict(EdgecError):
    """The copies cannot be made or used here."""


def make(folder: Path) -> list[str]:
    """Copy and change the installed packages, and build the handler, into `folder`; what exists there is kept.

    Returns:
        what was done, a line for each library.

    Raises:
        CannotRestrict: a tool is missing, or no package is installed.
    """
    compiler, disassembler = _tool("cc", "gcc", "clang"), _tool("objdump", "llvm-objdump")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("cpuid.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(folder / LIBRARY), str(source)], check=True
    )
    lines = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        copy = folder / SITE / package
        if (folder / f"{package}.{DONE}").exists():
            continue
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(spec.submodule_search_locations[0], copy)
        for library in _libraries(copy):
            changed = change(library, disassembler)
            if changed:
                lines.append(f"{library.relative_to(folder / SITE)}: {changed} cpuid")
        (folder / f"{package}.{DONE}").touch()
    if not (folder / SITE).exists():
        raise CannotRestrict(f"none of {', '.join(PACKAGES)} is installed")
    return lines


def change(library: Path, disassembler: str) -> int:
    """Replace each `cpuid` of a library by the trap; the number of them.

    Raises:
        CannotRestrict: what the disassembler found is not in the file.
    """
    content = bytearray(library.read_bytes())
    segments = list(_segments(content))
    places = _addresses(library, disassembler) if CPUID in content else []
    for address in places:
        offset = next((o + address - a for a, o, size in segments if a <= address < a + size), None)
        if offset is None or content[offset : offset + 2] != CPUID:
            raise CannotRestrict(f"{library}: no cpuid at {address:#x}, where {disassembler} sees one")
        content[offset : offset + 2] = TRAP
    if places:
        new = library.with_name(f".{library.name}.new")
        new.write_bytes(content)
        new.chmod(library.stat().st_mode)
        new.replace(library)
    return len(places)


def use(folder: Path) -> None:
    """Let this process import the copies in `folder`, with the handler in place; before any of them is imported.

    Raises:
        CannotRestrict: `folder` does not hold them, or a package is imported already.
    """
    library = folder / LIBRARY
    if not library.exists():
        raise CannotRestrict(
            f"{folder} has no {LIBRARY}: run `python -m edgec.benchmarks.restricted {folder}` first"
        )
    early = [name for name in PACKAGES if name in sys.modules]
    if early:
        raise CannotRestrict(f"{early[0]} is imported already")
    if ctypes.CDLL(str(library.resolve())).edgec_restrict_cpuid() != 0:
        raise CannotRestrict("this system installs no handler of SIGILL")
    sys.path.insert(0, str((folder / SITE).resolve()))


def environment() -> dict[str, str]:
    """For a process that uses the copies: the C library's own functions without AVX-512 as well."""
    return {"GLIBC_TUNABLES": NO_AVX512}


def sampled(folder: Path, call: Callable[[], object], seconds: float = SAMPLED_S) -> tuple[int, int]:
    """Run `call` again and again, and interrupt it every millisecond that it computes.

    Args:
        folder: with the handler, as made by `make`; the copies need not be in use.
        call: computes in any threads.
        seconds: how long, of computing in all threads.

    Returns:
        the number of interruptions, and of those at an instruction of AVX-512.
    """
    library = ctypes.CDLL(str((folder / LIBRARY).resolve()))
    if library.edgec_sample(1) != 0:
        raise CannotRestrict("this system interrupts no process by its computing time")
    end = time.process_time() + seconds
    while time.process_time() < end:
        call()
    library.edgec_sample(0)
    return int(library.edgec_samples()), int(library.edgec_avx512_samples())


def _tool(*names: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise CannotRestrict(f"this requires {' or '.join(names)} (packages gcc and binutils)")
    return found


def _libraries(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(root) / name
            if ".so" in name and path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def _segments(content: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Address, offset in the file, and size of each executable segment of a 64-bit ELF file."""
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for at in range(start, start + size * count, size):
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", content, at)
        if kind == LOADABLE and flags & EXECUTABLE:
            yield address, offset, length


def _addresses(library: Path, disassembler: str) -> list[int]:
    command = [disassembler, "-d", "--no-show-raw-insn", str(library)]
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stdout or ():
            address, _, instruction = line.partition(":")
            if instruction.split()[:1] == ["cpuid"]:
                found.append(int(address, 16))
    if process.returncode:
        raise CannotRestrict(f"{disassembler} cannot read {library}")
    return found

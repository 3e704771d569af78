"""Build the C library of a model: a folder with a header, a static library and, apart or linked in, the weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.compiler.c_library.header import header
from edgec.compiler.c_library.limits import check_c_library, check_kernels
from edgec.compiler.c_library.model import CModel, model_of
from edgec.compiler.c_library.names import identifier
from edgec.compiler.c_library.objects import archive
from edgec.compiler.c_library.source import source
from edgec.compiler.c_library.toolchain import Libc, compile_c, join_objects, sources
from edgec.compiler.lowered import Lowered
from edgec.runtime.artifact.weights import WeightsBlob
from edgec.runtime.artifact.writer import replacing
from edgec.targets.target import Target

Weights = Literal["linked", "file"]
# The engine's sources; those of libedgec's loader are not among them.
ENGINE = (
    "engine.c",
    "state.c",
    "kernels_abi.c",
    "pool.c",
    "errors.c",
    "machine.c",
    "sha256.c",
    "sha256_blocks.c",
)
VARYING = (
    "heap.c",
    "machine_code.c",
    "sized.c",
)  # and what runs branches, loops and sizes known only at run time


@dataclass(frozen=True)
class CLibrary:
    """A C library that was written.

    Attributes:
        folder: where.
        name: the prefix of its functions.
        files: sizes in bytes, by name.
        code_bytes: machine code and tables of the kernels and of what runs them.
        runtime_bytes: what of it is not the kernels'.
        memory: bytes of an instance, fixed and for each thread.
        stack: bytes of a thread.
    """

    folder: Path
    name: str
    files: Mapping[str, int]
    code_bytes: int
    runtime_bytes: int
    memory: tuple[int, int]
    stack: int


def build_c_library(
    folder: Path,
    config: rt.ArtifactConfig,
    lowered: Lowered,
    target: Target,
    initial: Mapping[str, npt.NDArray[np.generic]],
    *,
    libc: Libc = "gnu",
    weights: Weights = "linked",
) -> CLibrary:
    """Write `NAME.h`, `libNAME.a` and, unless they are linked in, `NAME.weights` into `folder`.

    Args:
        folder: made if it is not there; files of the same names are replaced.
        config: the config of the artifact that was verified.
        lowered: its code.
        target: the hardware.
        initial: what states begin with, by the names that the config gives them.
        libc: the C library of the system.
        weights: part of the library, or a file to map.

    Raises:
        NoCLibrary: the model cannot be a C library.
        BuildFailed, ToolMissing: the compiler failed, or is not installed.
    """
    check_c_library(lowered, target)
    check_kernels(lowered.objects)
    arrays = {**lowered.weights, **initial}
    pieces = list(WeightsBlob(arrays).chunks()) if arrays else []
    model = model_of(config, lowered, pieces, _offsets(pieces), linked=weights == "linked")
    name = identifier(config.name)
    with tempfile.TemporaryDirectory(prefix="edgec-c-") as temporary:
        work = Path(temporary)
        engine = _engine(model, work, target, libc)
        kernels = []
        for number, content in enumerate(lowered.objects):
            kernels.append(work / f"kernel{number}.o")
            kernels[-1].write_bytes(content)
        data = [_weights_object(model, work, target, libc)] if model.linked and pieces else []
        joined = join_objects([*engine, *kernels, *data], work / "joined.o", f"{name}_")
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{name}.h": header(model).encode(), f"lib{name}.a": archive({"model.o": joined})}
    for title, content in files.items():
        with replacing(folder / title) as file:
            file.write(content)
    if not model.linked and pieces:
        with replacing(folder / f"{name}.weights") as file:
            for piece in pieces:
                file.write(piece)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob(f"*{name}*"))}
    linked = model.weights_bytes if model.linked else 0
    code = len(files[f"lib{name}.a"]) - linked
    own = sum(len(content) for content in lowered.objects)
    return CLibrary(folder, name, sizes, code, max(0, code - own), model.memory(), model.stack)


def _offsets(pieces: list[bytes | memoryview]) -> dict[str, int]:
    """Bytes from the start of a blob of weights to each array."""
    if not pieces:
        return {}
    head = bytes(pieces[0])
    entries = json.loads(head[8:])
    return {name: len(head) + entry["data_offsets"][0] for name, entry in entries.items()}


def _engine(model: CModel, work: Path, target: Target, libc: Libc) -> list[Path]:
    generated = work / "model.c"
    generated.write_text(source(model), encoding="ascii")
    made = []
    names = ENGINE + (VARYING if model.machine is not None else ())
    for path in (generated, *(sources() / name for name in names)):
        made.append(work / f"{path.stem}.engine.o")
        compile_c(path, made[-1], target, libc)
    return made


def _weights_object(model: CModel, work: Path, target: Target, libc: Libc) -> Path:
    blob, assembly, made = work / "weights.bin", work / "weights.s", work / "weights.o"
    with blob.open("wb") as file:
        for piece in model.weights:
            file.write(piece)
    symbol = f"{model.name}_weights_blob"
    assembly.write_text(
        f'.section .rodata.weights,"a"\n.balign 64\n.globl {symbol}\n.hidden {symbol}\n{symbol}:\n'
        f'.incbin "{blob}"\n.section .note.GNU-stack,"",%progbits\n'
    )
    compile_c(assembly, made, target, libc, ["-Wno-unused-command-line-argument"])
    return made

"""Compile models to C libraries, and C programs that use them, with the compiler that pip installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import edgec.runtime as rt
from edgec.compiler.c_library.build import CLibrary, Weights, build_c_library
from edgec.compiler.c_library.toolchain import Libc
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.targets import Target

DRIVER = Path(__file__).parent / "driver.c"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Built:
    """A model as an artifact and as a C library."""

    result: CompileResult
    library: CLibrary
    target: Target
    libc: str

    @property
    def config(self) -> rt.ArtifactConfig:
        return self.result.config.visible()


def build(
    model: onnx.ModelProto | Path,
    target: Target,
    folder: Path,
    *,
    name: str = "net",
    libc: Libc = "gnu",
    weights: Weights = "linked",
    **further: Any,
) -> Built:
    """Compile, without verification: the outputs are what tests compare."""
    folder.mkdir(parents=True, exist_ok=True)
    path = model if isinstance(model, Path) else folder / f"{name}.onnx"
    if not isinstance(model, Path):
        onnx.save(model, path)
    options = CompileOptions(tune="none", verify=False, c_library=True, fallback=False, **further)
    result = compile_model(path, target, options, output=folder / f"{name}.edge", name=name)
    made = build_c_library(
        folder / "c", result.config, result.lowered, target, result.initial, libc=libc, weights=weights
    )
    return Built(result, made, target, libc)


def compile_program(built: Built, source: Path, *flags: str, output: Path | None = None) -> Path:
    """A program that uses the library, for its target."""
    output = output or built.library.folder.parent / (
        source.stem + "-".join(flags).replace("=", "").replace("/", "")
    )
    folder, name = built.library.folder, built.library.name
    triple = f"{built.target.arch}-linux-{built.libc}"
    zig_cc(
        triple,
        *flags,
        str(source),
        f"-I{folder}",
        str(folder / f"lib{name}.a"),
        "-lm",
        "-lpthread",
        "-o",
        str(output),
    )
    return output


def zig_cc(triple: str, *arguments: str) -> None:
    """Compile and link; warnings are errors."""
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        triple,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def driver(built: Built, *flags: str) -> Path:
    """The program that runs a library on arrays from a file."""
    name = built.library.name
    upper = name.upper()
    return compile_program(
        built, DRIVER, f"-DNAME={name}", f'-DHEADER="{name}.h"', f"-DMEMORY={upper}_MEMORY_BYTES",
        f"-DSTACK={upper}_STACK_BYTES", "-Wl,-z,now", "-D_GNU_SOURCE", *flags,
        output=built.library.folder.parent / f"driver{len(flags)}",
    )  # fmt: skip


def run_driver(
    built: Built,
    program: Path,
    inputs: Sequence[Arrays],
    *,
    threads: int = 1,
    skew: int = 0,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, int]]:
    """Outputs of each run, and what the driver tells."""
    folder = built.library.folder.parent
    config = built.config
    (folder / "in.bin").write_bytes(
        b"".join(np.ascontiguousarray(one[spec.name]).tobytes() for one in inputs for spec in config.inputs)
    )
    command = [*before, str(program), str(threads), str(skew), str(folder / "in.bin"), str(folder / "out.bin"),
               str(len(inputs)), *after]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    content, at, found = (folder / "out.bin").read_bytes(), 0, []
    for _ in inputs:
        outputs = {}
        for spec in config.outputs:
            kind = np.dtype(spec.dtype)
            size = int(np.prod(spec.shape, dtype=np.int64)) * kind.itemsize
            outputs[spec.name] = np.frombuffer(content[at : at + size], kind).reshape(spec.shape)
            at += size
        found.append(outputs)
    assert at == len(content)
    return found, json.loads(done.stdout)


def run_sized(
    built: Built, program: Path, inputs: Sequence[Arrays], *, threads: int = 1, before: Sequence[str] = ()
) -> tuple[list[dict[str, NDArray[Any]]], dict[str, int]]:
    """As `run_driver`, of a driver with `-DSIZED`: for sizes that differ from run to run."""
    folder, config = built.library.folder.parent, built.config
    arrays = [np.asarray(one[spec.name]) for one in inputs for spec in config.inputs]
    given = b"".join(np.array(array.shape, np.int64).tobytes() + array.tobytes() for array in arrays)
    (folder / "in.bin").write_bytes(given)
    files = [str(folder / "in.bin"), str(folder / "out.bin")]
    done = subprocess.run(
        [*before, str(program), str(threads), "0", *files, str(len(inputs))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    content, at, found = (folder / "out.bin").read_bytes(), 0, []
    for _ in inputs:
        outputs = {}
        for spec in config.outputs:
            kind, rank = np.dtype(spec.dtype), len(spec.shape)
            shape = np.frombuffer(content[at : at + 8 * rank], np.int64)
            at += 8 * rank
            end = at + int(np.prod(shape)) * kind.itemsize
            outputs[spec.name] = np.frombuffer(content[at:end], kind).reshape(shape)
            at = end
        found.append(outputs)
    assert at == len(content)
    return found, json.loads(done.stdout)


def python_outputs(built: Built, inputs: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """What the same artifact computes in Python, in one session."""
    with rt.load(built.result.artifact, threads=1) as model:
        session = model.session()
        return [session.run(dict(one)) for one in inputs]


def same(left: Sequence[Arrays], right: Sequence[Arrays]) -> bool:
    """Whether all arrays are equal bit by bit."""
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)
        for a, b in zip(left, right, strict=True)
    )

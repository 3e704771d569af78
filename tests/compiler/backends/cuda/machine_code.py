"""Read machine code with NVIDIA's tools, which come as wheels."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import edgec.runtime as rt
from edgec.runtime.gpu.code import unpack


@cache
def tool(name: str) -> Path:
    """`nvdisasm` or `cuobjdump`; the test is skipped where it is not installed."""
    spec = find_spec("nvidia")
    places = (
        [Path(one) / "cu13" / "bin" / name for one in (spec.submodule_search_locations or ())] if spec else []
    )
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install nvidia-cuda-{name}")
    found.chmod(0o755)
    return found


def said(name: str, *arguments: str | Path) -> str:
    """What a tool prints."""
    return subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=True).stdout


def disassembled(artifact: Path, folder: Path) -> list[str]:
    """The machine code of each kernel of an artifact."""
    header, binaries = unpack(rt.Artifact.open(artifact).code())
    texts, cubin = [], folder / "k.cubin"
    for one in header.binaries:
        if one.kind == "cubin":
            cubin.write_bytes(bytes(binaries[one.offset : one.offset + one.size]))
            texts.append(said("nvdisasm", "-c", cubin))
    return texts


@dataclass(frozen=True)
class Usage:
    """What a thread of a kernel, or a block (`shared`), takes; the rest is where registers are spilled to."""

    registers: int
    stack: int
    shared: int
    local: int


def usage_of(cubin: Path) -> Usage:
    """The usage of a cubin's first kernel."""
    text = said("cuobjdump", "--dump-resource-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    assert found is not None, text
    return Usage(*map(int, found.groups()))

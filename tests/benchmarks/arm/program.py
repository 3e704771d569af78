"""A program for 64-bit ARM whose loop is known to the instruction, linked without a C library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BODY = ("ldr q0, [x1]", "ldr q1, [x2]", "fmla v2.4s, v0.4s, v1.s[0]", "fmla v3.4s, v0.4s, v1.s[1]")
_SOURCE = """
    .globl _start
_start:
    adr x1, data
    mov x2, x1
    mov x8, #173        // getppid: a mark
    svc #0
    ldr x3, =ROUNDS
loop:
    BODY
    subs x3, x3, #1
    b.ne loop
    mov x8, #173
    svc #0
    mov x0, #0
    mov x8, #93         // exit
    svc #0
    .align 4
data:
    .zero 16
"""


def build(folder: Path, rounds: int) -> Path:
    """The executable."""
    source, made = folder / f"loop{rounds}.s", folder / f"loop{rounds}"
    text = _SOURCE.replace("ROUNDS", str(rounds)).replace("BODY", "\n    ".join(BODY))
    source.write_text(text, encoding="utf-8")
    compiler = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "aarch64-linux-musl",
        "-nostdlib",
        "-static",
    ]
    subprocess.run([*compiler, "-o", str(made), str(source)], check=True, capture_output=True)
    return made

"""The compiler for the emulated GPU: that for CUDA, but for the last step, in which Zig's compiler stands for NVRTC."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgec.compiler.backends.cuda.backend import CudaBackend
from edgec.compiler.backends.interface import Runner
from edgec.targets import load_target
from tests.compiler.backends.cuda.emulator.run import compile_cuda

ROOT = Path(__file__).parents[5]
# Names only: registered in a test's process, and in that of verification.
REGISTRATION = {
    "backend": "tests.compiler.backends.cuda.emulator.backend:EmulatedBackend",
    "device": "tests.compiler.backends.cuda.emulator.device:EmulatedDevice",
}
TARGET = replace(load_target("l4"), name="emulated-l4", device_kind="emulated")


@dataclass(frozen=True)
class EmulatedRunner:
    description: str = "a GPU emulated on this processor"
    is_hardware: bool = False

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        return (
            [sys.executable, "-m", "tests.compiler.backends.cuda.emulator.device", *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT)},
        )


class EmulatedBackend(CudaBackend):
    def architectures(self) -> list[tuple[str, str]]:
        return [("cubin", "sm_89")]

    compiler = ""  # what the emulator makes is no machine code of a GPU

    def compile_text(self, source: str, kind: str, arch: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return compile_cuda(source, Path(folder)).read_bytes()

    def runner(self) -> Runner:
        return EmulatedRunner()

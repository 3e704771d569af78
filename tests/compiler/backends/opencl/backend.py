"""A back end of the tests: the CUDA back end's schedules as OpenCL C, which runs on this machine's processor."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from edgec.compiler.backends.cuda.gpu_backend import GpuBackend
from edgec.compiler.backends.interface import Runner
from edgec.compiler.options import Precision
from edgec.targets import detect, load_target
from edgec.targets.gpu import Gpu

ROOT = Path(__file__).parents[4]
# Names only: the driver's own LLVM does not go well with TVM's in one process.
REGISTRATION = {
    "backend": "tests.compiler.backends.opencl.backend:OpenClBackend",
    "device": "tests.compiler.backends.opencl.device:OpenClDevice",
}
TARGET = replace(
    detect(),
    name="opencl-here",
    device_kind="opencl",
    tvm={
        "kind": "opencl",
        "max_threads_per_block": 256,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 1,
    },
)


# TVM writes some functions for OpenCL by their names in C, and `select` of one and two bytes with a condition of four,
# which OpenCL C finds ambiguous. CUDA has both.
_FUNCTIONS = ("acos", "acosh", "asin", "asinh", "atan", "atanh", "atan2", "cosh", "sinh", "tan", "erf")
_PROLOGUE = "#define select(no, yes, when) ((when) ? (yes) : (no))\n" + "".join(
    f"#define {name}f {name}\n" for name in _FUNCTIONS
)

TENSOR_TARGET = replace(TARGET, name="opencl-here-in-tiles")
TILED_FOR = replace(load_target("l4").gpu or Gpu(), shared_bytes_per_block=49152)


@dataclass(frozen=True)
class OpenClRunner:
    description: str = "OpenCL on this processor"
    is_hardware: bool = False

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        return (
            [sys.executable, "-m", "tests.compiler.backends.opencl.device", *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT)},
        )


class OpenClBackend(GpuBackend):
    """For `TENSOR_TARGET`, products take the tiles of tensor cores, whose steps each thread computes in fp32."""

    tensorised = False

    @property
    def tiled_for(self) -> Gpu | None:
        return TILED_FOR if self.target.name == TENSOR_TARGET.name else None

    def check_precision(self, precision: Precision) -> None:
        """Any: operands are rounded as for tensor cores, and multiplied by ordinary arithmetic."""

    def architectures(self) -> list[tuple[str, str]]:
        return [("ptx", "sm_00")]  # text that the driver compiles, as PTX is

    def compile_text(self, source: str, kind: str, arch: str) -> bytes:
        return (_PROLOGUE + source).encode()

    def runner(self) -> Runner:
        return OpenClRunner()

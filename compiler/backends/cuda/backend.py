"""The back end for NVIDIA GPUs: NVRTC, its report on registers, and candidates timed where a GPU is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda import nvrtc
from edgec.compiler.backends.cuda.frames import without_frames
from edgec.compiler.backends.cuda.gpu_backend import STATIC_SHARED, UNSOUND, GpuBackend
from edgec.compiler.backends.cuda.library import build_scheduled
from edgec.compiler.backends.cuda.lowering import lower_kernel
from edgec.compiler.backends.cuda.runner import runner_of
from edgec.compiler.backends.cuda.timing import GpuTrials
from edgec.compiler.backends.interface import CandidateFailed, Runner, Workload
from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.errors import InternalError, TargetLacksPrecision, ToolMissing
from edgec.compiler.options import WEIGHT_BITS, Precision
from edgec.compiler.progress import Progress
from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.api import GpuApi
from edgec.runtime.gpu.code import capability_of, nearest
from edgec.runtime.gpu.driver import shared_driver
from edgec.targets.errors import BadTargetFile
from edgec.targets.gpu import Gpu


class CudaBackend(GpuBackend):
    """Compiles for NVIDIA GPUs, on any machine."""

    def architectures(self) -> list[tuple[str, str]]:
        """A cubin for each of the target's architectures, and PTX for those that come later."""
        made = [("cubin", arch) for arch in self.gpu.architectures]
        return [*made, ("ptx", self.gpu.ptx)] if self.gpu.ptx else made

    @property
    def gpu(self) -> Gpu:
        """The GPU's facts."""
        if self.target.gpu is None or not self.target.gpu.architectures:
            raise BadTargetFile(f"{self.target.name} is a CUDA target without [gpu] architectures")
        return self.target.gpu

    @property
    def tvm_target(self) -> tvm.target.Target:
        """The first architecture, with its limits."""
        facts = {
            **self.target.tvm,
            "arch": self.gpu.architectures[0],
            "max_shared_memory_per_block": min(self.gpu.shared_bytes_per_block, STATIC_SHARED),
        }
        return tvm.target.Target(facts, host="llvm")

    def compile_text(self, source: str, kind: str, arch: str) -> bytes:
        """Compile by NVRTC."""
        return nvrtc.compile_source(source, arch, ptx=kind == "ptx").content

    def settle(
        self, chosen: Mapping[str, tuple[Workload, Any]], cache_dir: Path | None, progress: Progress
    ) -> dict[str, Any]:
        """Candidates whose machine code keeps everything in registers, on each architecture."""
        if not self.compiler:
            return super().settle(chosen, cache_dir, progress)
        cache = ObjectCache(cache_dir)

        def source_of(symbol: str, work: Workload, candidate: Any) -> str | None:  # noqa: ANN401
            try:
                return lower_kernel(symbol, work.emit(candidate), self.tvm_target).source
            except (CandidateFailed, *UNSOUND):
                return None

        def frame_of(source: str) -> int:
            return max(
                self._frame_of(cache, source, arch) for kind, arch in self.architectures() if kind == "cubin"
            )

        return without_frames(chosen, source_of, frame_of, progress)

    def _frame_of(self, cache: ObjectCache, source: str, arch: str) -> int:
        """The largest stack frame of a source text's kernels; their machine code is in the cache afterwards."""
        key = key_of("gpu", self.compiler, "frame", arch, source)
        known = cache.get(key)
        if known is None:
            made = nvrtc.compile_source(source, arch)
            cache.put(key_of("gpu", self.compiler, "cubin", arch, source), made.content)
            known = str(made.frame_bytes).encode()
            cache.put(key, known)
        return int(known)

    @property
    def compiler(self) -> str:
        """NVRTC's version, options and headers."""
        return nvrtc.identity()

    def check_precision(self, precision: Precision) -> None:
        """Check that the tensor cores multiply in `precision`."""
        if precision in WEIGHT_BITS:
            raise TargetLacksPrecision(
                f"{self.target.name} has no kernels for narrow weights: compile with --precision fp16 or fp32"
            )
        if precision in ("fp16", "bf16", "tf32") and precision not in self.gpu.tensor_types:
            known = ", ".join(self.gpu.tensor_types) or "no type"
            raise TargetLacksPrecision(
                f"{self.target.name} has tensor cores for {known}, not for {precision}: compile with --precision fp32"
            )

    @property
    def tiled_for(self) -> Gpu | None:
        """The target's GPU, if it has tensor cores."""
        return self.gpu if self.gpu.tensor_types else None

    def open(self) -> GpuApi:
        """Open this machine's GPU.

        Raises:
            IncompatibleDevice: there is none, or its driver is too old.
        """
        return shared_driver()

    @cached_property
    def _here(self) -> GpuApi | None:
        """This machine's GPU, if one of the target's cubins was made for it."""
        try:
            found = self.open()
        except IncompatibleDevice:
            return None
        made_for = {capability_of(arch) for kind, arch in self.architectures() if kind == "cubin"}
        return found if found.capability in made_for else None

    @property
    def winners_key(self) -> str:
        """The GPU's name and compute capability where candidates can be timed; elsewhere the target's name."""
        if self._here is None:
            return super().winners_key
        major, minor = self._here.capability
        return f"cuda-{self._here.name}-sm_{major}{minor}"

    @property
    def can_time(self) -> bool:
        """Whether this machine has such a GPU."""
        return self._here is not None

    def trials(self) -> GpuTrials:
        """On this machine's GPU."""
        if self._here is None:
            raise ToolMissing(f"candidates for {self.target.name} are timed on a machine that has such a GPU")
        binary = nearest(self.architectures(), self._here.capability)

        def build(kernel: PrimFunc) -> bytes:
            return build_scheduled(
                "kernel", kernel, 1, self.tvm_target, [binary] if binary else [], self.compile_text
            )

        return GpuTrials(self._here, build, self.gpu.l2_bytes, (*UNSOUND, InternalError))

    def runner(self) -> Runner:
        """This machine, if it has such a GPU."""
        return runner_of(self.target)

"""What compilers for GPUs share: schedules for blocks of threads, and a program of launches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import tvm
from tvm import s_tir
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.anchored import NORMALISATIONS, TF32_MARK, WINDOWS, Anchored
from edgec.compiler.backends.cuda.flat_rows import unflatten_rows
from edgec.compiler.backends.cuda.library import build_function, build_library
from edgec.compiler.backends.cuda.operands import round_operands
from edgec.compiler.backends.cuda.schedules import schedule_generic, why_not
from edgec.compiler.backends.cuda.templates.attention import emit_attention
from edgec.compiler.backends.cuda.templates.attention_tiles import attention_tiles, mean_rounds
from edgec.compiler.backends.cuda.templates.recurrent import emit_recurrent
from edgec.compiler.backends.cuda.templates.tensor_product import product_of
from edgec.compiler.backends.cuda.templates.tiles import Tile, tiles_for
from edgec.compiler.backends.cuda.templates.windows import schedule_window
from edgec.compiler.backends.interface import FAMILY, Backend, CandidateFailed, Library, OperandsOf, Workload
from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.errors import KernelUnsupported, opening
from edgec.compiler.graph.anchors import decode
from edgec.compiler.graph.attention import fuse_attention
from edgec.compiler.graph.attention_compute import described
from edgec.compiler.graph.attention_spec import AttentionSpec
from edgec.compiler.graph.buffers import buffer_bytes
from edgec.compiler.kernels.recurrent import recurrent_of
from edgec.compiler.operands.operands import FLOAT32
from edgec.compiler.progress import Progress
from edgec.runtime.gpu.code import pack_programs
from edgec.targets.gpu import Gpu

_CANDIDATES = 24  # tiles that a GPU may choose from by timing
_MOST_THREADS = 256  # of a block, where the target does not say
_TRIED = 4  # tiles before the generic rules take a product
# What TVM raises for a tile that does not suit a product: its exceptions have no common base.
UNSOUND = (
    s_tir.schedule.ScheduleError,
    tvm.error.InternalError,
    ValueError,
    AssertionError,
    KernelUnsupported,
)
STATIC_SHARED = 49152  # what a block may use without asking the driver for more


def _shapes(func: PrimFunc) -> str:
    """Shapes and types of a kernel's parameters."""
    return ",".join(f"{'x'.join(map(str, one.ty.shape))}:{one.ty.dtype.dtype}" for one in func.params)


def _refusing(emit: Callable[[Tile], PrimFunc]) -> Callable[[Tile], PrimFunc]:
    """`emit`, which says as the tuner expects it that a tile does not suit the product."""

    def made(tile: Tile) -> PrimFunc:
        try:
            return emit(tile)
        except UNSOUND as error:
            raise CandidateFailed(opening(error)) from error

    return made


class GpuBackend(Backend):
    """What compilers for GPUs share; a subclass names the language of kernels and makes binaries."""

    runs_control = False

    @property
    def tvm_target(self) -> tvm.target.Target:
        """The target as TVM takes it, with a host (whose code is never built)."""
        return tvm.target.Target(dict(self.target.tvm), host="llvm")

    def choose_layouts(self, mod: tvm.IRModule, operands_of: OperandsOf, error_budget: float) -> tvm.IRModule:
        """Operands of products are rounded to what the precision asks for; products become kernels with epilogues."""
        mod = fuse_attention(unflatten_rows(mod), 1, self._fits, choices=True)
        return Anchored(round_operands(mod, operands_of), operands_of).run()

    def _fits(self, spec: AttentionSpec) -> bool:
        return bool(attention_tiles(spec, FLOAT32.data, self.facts, tensorised=False))

    @property
    def facts(self) -> Gpu:
        """The GPU's facts; those of the smallest where the target has none."""
        return self.target.gpu or Gpu()

    def workload_of(
        self, func: PrimFunc, anchor: str, operators: tuple[str, ...], threads: int, error_budget: float
    ) -> Workload | None:
        """A product with its tiles by the model's order, or a window."""
        family = f"{anchor}/{_shapes(func)}"
        workload = partial(
            Workload,
            key=f"gpu/1/{family}/{'-'.join(operators)}",
            family=f"gpu/1/{family}/{FAMILY}",
            kind=operators[0],
            bytes=buffer_bytes(func),
            threads=threads,
        )
        attention = described(func)
        if attention is not None:
            spec, types = attention
            tensorised = self.tensorised and types.operands != FLOAT32.data
            cuts = attention_tiles(spec, types.operands, self.facts, tensorised=tensorised, band=types.band)
            emit_cut = partial(emit_attention, spec, types, tensorised=tensorised)
            seen = mean_rounds(spec, cuts[0], types.band) * cuts[0].keys / spec.keys if cuts else 1.0
            return workload(flops=int(spec.flops * min(seen, 1.0)), candidates=tuple(cuts), emit=emit_cut)
        if decode(anchor)[0] in NORMALISATIONS:
            return None
        product = product_of(func)
        if product is not None:
            rounded = product.for_tensor_cores or (TF32_MARK in decode(anchor)[1] and product.in_fp32)
            if self.tiled_for is None or not (rounded or not self.tensorised):
                return None
            tiles = tiles_for(product.size, self.tiled_for, self.tiled_for.shared_bytes_per_block)
            emit = _refusing(partial(product.emit, tensorised=self.tensorised))
            sound = next((at for at in range(min(_TRIED, len(tiles))) if self._lowers(emit, tiles[at])), None)
            if sound is not None:
                kept = tiles[sound : sound + _CANDIDATES]
                return workload(flops=product.size.flops, candidates=tuple(kept), emit=emit)
        window = schedule_window(func) if decode(anchor)[0] in WINDOWS else None
        if window is None or why_not(window, self.tvm_target) is not None:
            return None
        return workload(flops=0, candidates=("direct a thread an element",), emit=lambda _: window)

    def _lowers(self, emit: Callable[[Tile], PrimFunc], tile: Tile) -> bool:
        """Whether a tile's kernel can be made; another tile may, and after some the generic rules take over."""
        try:
            made = emit(tile)
        except CandidateFailed:
            return False
        return why_not(made, self.tvm_target) is None

    @property
    def tiled_for(self) -> Gpu | None:
        """The GPU whose tensor cores products are tiled for."""
        return None

    tensorised = True  # without, tiles are computed by ordinary arithmetic, which runs anywhere

    def schedule(self, func: PrimFunc, threads: int) -> PrimFunc:
        """Recurrent layers on the threads of a block; anything else by TVM's rules for GPUs."""
        layer = recurrent_of(func)
        if layer is not None:
            most = int(self.tvm_target.attrs.get("max_num_threads", _MOST_THREADS))
            return schedule_generic(emit_recurrent(layer, "recurrent", most), self.tvm_target)
        return schedule_generic(func, self.tvm_target)

    @abstractmethod
    def architectures(self) -> list[tuple[str, str]]:
        """Kind and architecture of each binary that an artifact holds."""

    @abstractmethod
    def compile_text(self, source: str, kind: str, arch: str) -> bytes:
        """The binary of a source text."""

    @property
    def compiler(self) -> str:
        """What else than its text decides what becomes of a source; empty where binaries are not worth keeping."""
        return ""

    def build(self, mod: tvm.IRModule, cache_dir: Path | None, progress: Progress) -> Library:
        """Binaries for each architecture, those of known sources from the cache, and the launches of a run."""
        cache = ObjectCache(cache_dir)
        code = build_library(
            mod, self.tvm_target, self.architectures(), partial(self._compile_once, cache), progress
        )
        cache.prune()
        return Library(code)

    def _compile_once(self, cache: ObjectCache, source: str, kind: str, arch: str) -> bytes:
        """The binary of a source text, from the cache where it is there."""
        if not self.compiler:
            return self.compile_text(source, kind, arch)
        key = key_of("gpu", self.compiler, kind, arch, source)
        made = cache.get(key)
        if made is None:
            made = self.compile_text(source, kind, arch)
            cache.put(key, made)
        return made

    in_parallel = True

    def build_functions(self, functions: Mapping[str, PrimFunc]) -> bytes | None:
        """A program for each function; None where one has no kernel: the host computes them then."""
        compile_text = partial(self._compile_once, ObjectCache(None))
        try:
            return pack_programs(
                {
                    name: build_function(name, func, self.tvm_target, self.architectures(), compile_text)
                    for name, func in functions.items()
                }
            )
        except KernelUnsupported:
            return None

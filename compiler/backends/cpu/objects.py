"""Object files of kernels: each kernel is compiled separately, several in parallel, and cached between compiles.

The order and content of the objects do not depend on the cache or the number of threads: so the
linked library does not either.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends import special_values
from edgec.compiler.backends.cpu import codegen, dot_instructions, dot_sequences, tir_pipeline
from edgec.compiler.backends.cpu.tir_pipeline import LEVEL
from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.progress import Progress
from edgec.targets.detection import usable_cores
from edgec.targets.target import Target


class Objects:
    """The object files of the kernels of one compile, built while others are still being scheduled."""

    def __init__(self, target: Target, cache: ObjectCache) -> None:
        self._target, self._cache = target, cache
        self._made_by = _made_by(target)
        self._options = dict(target.tvm)
        self._begun: dict[str, Future[bytes]] = {}
        self._keys: dict[str, tuple[PrimFunc, str]] = {}  # by symbol, as writing a kernel as text takes long
        # TVM releases the GIL while LLVM works, and each module has its own LLVM state
        self._threads = ThreadPoolExecutor(usable_cores())

    def begin(self, function: PrimFunc) -> Future[bytes]:
        """Begin to build a kernel with its global symbol, scheduled, or to read it from the cache."""
        symbol = str(function.attrs["global_symbol"])
        known = self._keys.get(symbol)
        if known is not None and known[0].same_as(function):
            return self._begun[known[1]]
        key = key_of(*self._made_by, tvm.ir.save_json(function))
        self._keys[symbol] = function, key
        begun = self._begun.get(key)
        if begun is None:
            begun = self._begun[key] = self._threads.submit(self._object, key, function)
        return begun

    def all(self, functions: Iterable[PrimFunc], progress: Progress) -> list[bytes]:
        """The object file of each kernel, in the order of their symbols.

        Args:
            functions: kernels with their global symbols, scheduled.
            progress: hears of a cache that is not used.

        Raises:
            whatever TVM raises for a kernel that cannot be built (its exceptions have no common base).
        """
        if self._cache.refused:
            progress.note(
                f"{self._cache.folder} is another user's, or others may write to it: all kernels are built anew. To "
                "keep them, make it yours alone (chmod go-w), or name another folder with --cache"
            )
        named = sorted((str(function.attrs["global_symbol"]), function) for function in functions)
        begun = [self.begin(function) for _, function in named]
        made = [one.result() for one in begun]
        self.stop()
        self._cache.prune()
        return made

    def stop(self) -> None:
        """Build nothing that was not asked for yet."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _object(self, key: str, function: PrimFunc) -> bytes:
        content = self._cache.get(key)
        if content is None:
            level = {"opt-level": int(function.attrs[LEVEL])} if LEVEL in function.attrs else {}
            made_for = tvm.target.Target(self._options | level)
            content = _build(str(function.attrs["global_symbol"]), function, made_for)
            self._cache.put(key, content)
        return content


def _build(symbol: str, function: PrimFunc, target: tvm.target.Target) -> bytes:
    built = tvm.tirx.build(tvm.IRModule({symbol: function}), target=target, pipeline=tir_pipeline.PIPELINE)
    with tempfile.TemporaryDirectory(prefix="edgec-kernel-") as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path))
        return path.read_bytes()


def _made_by(target: Target) -> tuple[str, ...]:
    """What decides, beside the kernel itself, what its object file holds."""
    steps = (
        inspect.getsource(module)
        for module in (codegen, dot_instructions, dot_sequences, special_values, tir_pipeline)
    )
    options = (f"{name}={value}" for name, value in sorted(target.tvm.items()))
    llvm = f"LLVM {tvm.target.codegen.llvm_version_major()}"  # not the same in every build of a TVM
    return (metadata.version("apache-tvm"), metadata.version("apache-tvm-ffi"), llvm, *steps, *options)

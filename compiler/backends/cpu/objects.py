"""Object files of kernels: each kernel is compiled separately, several in parallel, and cached between compiles.

The order and content of the objects do not depend on the cache or the number of threads: so the
linked library does not either.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import tvm
from tvm.tirx import PrimFunc

from edgec.compiler.backends import special_values
from edgec.compiler.backends.cpu import codegen, dot_instructions, tir_pipeline
from edgec.compiler.backends.cpu.object_cache import ObjectCache, key_of
from edgec.compiler.progress import Progress
from edgec.targets.detection import usable_cores
from edgec.targets.target import Target


def kernel_objects(
    functions: Iterable[PrimFunc], target: Target, cache: ObjectCache, progress: Progress
) -> list[bytes]:
    """The object file of each kernel, in the order of their symbols.

    Args:
        functions: kernels with their global symbols, scheduled.
        target: the hardware.
        cache: is asked first, and told what had to be built.
        progress: hears of a cache that is not used.

    Raises:
        whatever TVM raises for a kernel that cannot be built (its exceptions have no common base).
    """
    if cache.refused:
        progress.note(
            f"{cache.folder} is another user's, or others may write to it: all kernels are built anew. To keep them, "
            "make it yours alone (chmod go-w), or name another folder with --cache"
        )
    named = sorted((str(function.attrs["global_symbol"]), function) for function in functions)
    made_by = _made_by(target)
    keys = {symbol: key_of(*made_by, tvm.ir.save_json(function)) for symbol, function in named}
    found = {symbol: cache.get(key) for symbol, key in keys.items()}
    missing = [(symbol, function) for symbol, function in named if found[symbol] is None]
    if missing:
        tvm_target = tvm.target.Target(dict(target.tvm))
        # TVM releases the GIL while LLVM works, and each module has its own LLVM state
        with ThreadPoolExecutor(min(usable_cores(), len(missing))) as threads:
            built = threads.map(lambda one: _build(one[0], one[1], tvm_target), missing)
            for (symbol, _), content in zip(missing, built, strict=True):
                found[symbol] = content
                cache.put(keys[symbol], content)
        cache.prune()
    return [content for content in found.values() if content is not None]


def _build(symbol: str, function: PrimFunc, target: tvm.target.Target) -> bytes:
    built = tvm.tirx.build(tvm.IRModule({symbol: function}), target=target, pipeline=tir_pipeline.PIPELINE)
    with tempfile.TemporaryDirectory(prefix="edgec-kernel-") as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path))
        return path.read_bytes()


def _made_by(target: Target) -> tuple[str, ...]:
    """What decides, beside the kernel itself, what its object file holds."""
    steps = (
        inspect.getsource(module) for module in (codegen, dot_instructions, special_values, tir_pipeline)
    )
    options = (f"{name}={value}" for name, value in sorted(target.tvm.items()))
    llvm = f"LLVM {tvm.target.codegen.llvm_version_major()}"  # not the same in every build of a TVM
    return (metadata.version("apache-tvm"), metadata.version("apache-tvm-ffi"), llvm, *steps, *options)

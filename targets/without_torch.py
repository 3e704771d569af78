"""TVM without PyTorch: by itself TVM imports PyTorch where that is installed, for conversions that no compile uses.

That takes several seconds and hundreds of megabytes. Whatever part imports TVM calls `keep_torch_out` before:
the packages of the compiler and of the benchmarks, and the runtime where it needs the package `tvm_ffi`. Whoever
imported TVM or PyTorch before keeps them as they are; PyTorch can be imported at any time, also by another thread while
this one imports TVM.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

GUARDED = frozenset({"tvm", "tvm_ffi"})

_adding = threading.Lock()  # two finders would ask each other forever


class _Inside(threading.local):
    """How many of TVM's packages this thread is importing at the moment."""

    depth = 0


class _Finder(MetaPathFinder):
    """Finds nothing itself: it sees to it that what TVM's packages import on their way in is not PyTorch."""

    def __init__(self) -> None:
        self.inside = _Inside()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torch" and self.inside.depth:
            raise ModuleNotFoundError("TVM is imported without PyTorch", name=fullname)
        if fullname not in GUARDED:
            return None
        for finder in sys.meta_path:
            # Python has other ways with a finder that lacks the method
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.inside)
                return spec
        return None


class _Loader(Loader):
    """Runs a package's code with PyTorch out of reach of this thread."""

    def __init__(self, own: Loader, inside: _Inside) -> None:
        self.own, self.inside = own, inside

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        self.inside.depth += 1
        try:
            self.own.exec_module(module)
        finally:
            self.inside.depth -= 1


def keep_torch_out() -> None:
    """Let the first import of TVM in this process pass PyTorch by, once and for all threads."""
    with _adding:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())

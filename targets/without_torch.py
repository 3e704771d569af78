"""Import TVM without PyTorch, which it imports where installed, for conversions that no compile uses.

That import takes several seconds and hundreds of megabytes. Every part that imports TVM calls `keep_torch_out` first:
the packages of the compiler and of the benchmarks, and the runtime where it needs the package `tvm_ffi`. A TVM or
PyTorch that is imported already stays as it is, and PyTorch can be imported at any time, even by another thread while
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

_adding = threading.Lock()  # two finders would call each other for ever


class _Inside(threading.local):
    """How many of TVM's packages this thread is importing at the moment."""

    depth = 0


class _Finder(MetaPathFinder):
    """Finds nothing itself, and hides PyTorch from TVM's packages while they are being imported."""

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
            # a finder without the method is called by Python in another way
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self.inside)
                return spec
        return None


class _Loader(Loader):
    """Runs a package's code with PyTorch hidden from this thread."""

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
    """Make every import of TVM in this process skip PyTorch, in all threads; further calls change nothing."""
    with _adding:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())

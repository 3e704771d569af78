"""Find and load ``libtvm_runtime.so``: the 3 MB that compiled models need, without the compiler beside it.

Looked for in this order: what the process has loaded already, the file that ``EDGEC_TVM_RUNTIME`` names,
the folder of an installed ``apache-tvm`` (which is not imported), the library that the artifact bundles,
the system's paths. The wheel comes before the bundled one so that a program may still import tvm later:
two copies of the runtime in one process would register their functions twice.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from edgec.runtime.config import RUNTIME_ABI
from edgec.runtime.errors import IncompatibleDevice

RUNTIME_LIBRARY = "libtvm_runtime.so"
# Sorting and top-k of TVM live here; present beside the runtime in the wheel.
EXTRA_LIBRARY = "libtvm_runtime_extra.so"
_TVM_SERIES = "0.27."
_FFI_SERIES = "0.1.14"
_SYSTEM_FOLDERS = ("/usr/local/lib", "/usr/lib", "/usr/lib/edgec", "/opt/edgec/lib")

# A function, tensor or module of tvm_ffi: objects of C++, without stubs.
Handle = Any

_lock, _importing = threading.Lock(), threading.Lock()
_loaded: list[ctypes.CDLL] = []


@cache
def ffi() -> Handle:
    """The module ``tvm_ffi``, imported without PyTorch.

    By itself it imports PyTorch where that is installed (5 s and 400 MB, for the sake of Windows), and may
    even compile an extension for it.
    """
    with _importing:
        if "tvm_ffi" not in sys.modules and "torch" not in sys.modules:
            sys.modules["torch"] = None  # type: ignore[assignment]  # importing it is an ImportError from here on
            try:
                return importlib.import_module("tvm_ffi")
            finally:
                del sys.modules["torch"]
        return importlib.import_module("tvm_ffi")


@contextmanager
def code_in_memory(content: bytes, name: str) -> Iterator[Path]:
    """A path at which the dynamic linker finds ``content``, which is never a file on disk.

    The bytes lie in an anonymous memory file and the path is a link to it, of a name never used before
    (the linker takes two libraries of one path for the same). Both may go as soon as the library is
    loaded.
    """
    descriptor = os.memfd_create(f"edgec:{name}", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        folder = Path(mkdtemp(prefix="edgec-"))
        link = folder / name
        try:
            link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
            yield link
        finally:
            with suppress(FileNotFoundError):
                link.unlink()
            folder.rmdir()
    finally:
        os.close(descriptor)


def check_ffi() -> None:
    """Refuse a tvm-ffi whose object ABI is not the one that compiled code was made for.

    Raises:
        IncompatibleDevice: not installed, or another version.
    """
    try:
        version = importlib.metadata.version("apache-tvm-ffi")
    except importlib.metadata.PackageNotFoundError:
        raise IncompatibleDevice(
            "apache-tvm-ffi is not installed: pip install apache-tvm-ffi==0.1.14.post1"
        ) from None
    if not version.startswith(_FFI_SERIES):
        raise IncompatibleDevice(
            f"apache-tvm-ffi {version} is installed here; the runtime ABI {RUNTIME_ABI} needs {_FFI_SERIES}: "
            "pip install apache-tvm-ffi==0.1.14.post1"
        )


def _in_wheel() -> Path | None:
    spec = PathFinder.find_spec("tvm")  # looks at folders only: right too where importing tvm is forbidden
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / RUNTIME_LIBRARY
        if path.is_file():
            version = importlib.metadata.version("apache-tvm")
            return path if version.startswith(_TVM_SERIES) else None
    return None


def _find() -> Path | None:
    if named := os.environ.get("EDGEC_TVM_RUNTIME"):
        path = Path(named)
        path = path / RUNTIME_LIBRARY if path.is_dir() else path
        if not path.is_file():
            raise IncompatibleDevice(f"EDGEC_TVM_RUNTIME names {named}, where there is no {RUNTIME_LIBRARY}")
        return path.resolve()
    return _in_wheel()


def _in_system() -> Path | None:
    return next(
        (path for folder in _SYSTEM_FOLDERS if (path := Path(folder) / RUNTIME_LIBRARY).is_file()), None
    )


def ensure_runtime(bundled: Callable[[str], bytes | None]) -> None:
    """Load the TVM runtime into this process, once.

    Args:
        bundled: gives the bytes of a library that the artifact bundles, or None; called only if it is needed.

    Raises:
        IncompatibleDevice: there is none, or it cannot be loaded; the message says where it was looked for.
    """
    with _lock:
        if _loaded:
            return
        check_ffi()
        # Workers wait this many rounds for the next kernel before they sleep. TVM's own 300,000
        # keep a core busy
        # for a tenth of a second after every inference; kernels of one model follow each other
        # within microseconds.
        os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "5000")
        if ffi().get_global_func("vm.builtin.alloc_storage", allow_missing=True) is not None:
            return
        path = _find()
        if path is not None:
            _load(path)
            return
        content = bundled(RUNTIME_LIBRARY)
        if content is not None:
            with code_in_memory(content, RUNTIME_LIBRARY) as link:
                _load(link)
            if (extra := bundled(EXTRA_LIBRARY)) is not None:
                with code_in_memory(extra, EXTRA_LIBRARY) as link:
                    _load(link)
            return
        path = _in_system()
        if path is None:
            raise IncompatibleDevice(
                f"{RUNTIME_LIBRARY} was not found on this machine: set EDGEC_TVM_RUNTIME to it, install "
                "apache-tvm==0.27.0.post1, or compile with --bundle-runtime"
            )
        _load(path)


def _load(path: Path) -> None:
    for file in (path, path.parent / EXTRA_LIBRARY):
        if file != path and (not file.is_file() or path.is_symlink()):
            continue
        try:
            _loaded.append(ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL))
        except OSError as error:
            raise IncompatibleDevice(f"{path.name} cannot be loaded on this machine: {error}") from error


def global_function(name: str) -> Handle:
    """A function that the TVM runtime registers by this name."""
    return ffi().get_global_func(name)

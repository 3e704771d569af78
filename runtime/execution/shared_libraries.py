"""Find and load `libtvm_ffi.so` and `libtvm_runtime.so`, all that a compiled model needs of TVM.

The first comes with the package `apache-tvm-ffi`. The second is searched for in this order: the one that the process
has loaded already, the file named by `EDGEC_TVM_RUNTIME`, the folder of an installed `apache-tvm`, the library inside
edgec's own wheel, the library bundled with the artifact, the system's paths. Neither package is imported. The wheel
takes precedence over the bundled library so that a program can still import tvm later: two copies of the runtime in
one process would register their functions twice.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.execution.ffi_abi import Function, Interface
from edgec.runtime.versions import RUNTIME_ABI, TVM, TVM_FFI, TVM_SERIES

FFI_LIBRARY, RUNTIME_LIBRARY = "libtvm_ffi.so", "libtvm_runtime.so"
# Sorting and top-k of TVM live here; present beside the runtime in the wheel.
EXTRA_LIBRARY = "libtvm_runtime_extra.so"
_SYSTEM_FOLDERS = ("/usr/local/lib", "/usr/lib", "/usr/lib/edgec", "/opt/edgec/lib")

# The package tvm_ffi: a module of C++, without stubs.
Package = Any

_lock = threading.Lock()
_loaded: list[ctypes.CDLL] = []
_versions: dict[str, str] = {}


@cache
def ffi() -> Package:
    """Import the package `tvm_ffi` without PyTorch; only callbacks into Python need it.

    On its own it imports PyTorch where that is installed (5 s and 400 MB, for the sake of Windows), and may even
    compile an extension for it.
    """
    from edgec.targets.without_torch import keep_torch_out  # imported late: loading does not need it

    keep_torch_out()
    return importlib.import_module("tvm_ffi")


@cache
def interface() -> Interface:
    """Load `libtvm_ffi.so` the way the package `tvm_ffi` does, without importing the package.

    Raises:
        IncompatibleDevice: the package is not installed, its library cannot be loaded, or it has another version.
    """
    check_ffi()
    folder = _folder_of("tvm_ffi")
    path = None if folder is None else folder / "lib" / FFI_LIBRARY
    try:
        if path is None or not path.is_file():
            path = Path(ffi().LIB._name)  # an unusual installation, which the package itself can locate
        return Interface(ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL))
    except (OSError, ImportError, RuntimeError, AttributeError) as error:
        raise IncompatibleDevice(f"{FFI_LIBRARY} cannot be loaded on this machine: {error}") from error


def _folder_of(package: str) -> Path | None:
    """Locate a package without importing it, so that this works where its import is blocked."""
    spec = PathFinder.find_spec(package)
    return next((Path(folder) for folder in (spec.submodule_search_locations or ())), None) if spec else None


def _version_of(distribution: str, package: str) -> str | None:
    """The version of an installed distribution that contains `package`; None where it is not installed (yet)."""
    if distribution not in _versions:
        version = _look_up(distribution, package)
        if version is None:
            return None
        _versions[distribution] = version
    return _versions[distribution]


def _look_up(distribution: str, package: str) -> str | None:
    """Read a version from the name of its `.dist-info` folder: `importlib.metadata` would import an email parser."""
    if folder := _folder_of(package):
        begin, end = f"{distribution.replace('-', '_')}-", ".dist-info"
        try:
            names = os.listdir(folder.parent)  # noqa: PTH208 - a thousand Path objects take a millisecond
        except OSError:  # in an archive, or in a folder that cannot be listed: fall back to the metadata
            names = []
        found = [name for name in names if name.startswith(begin) and name.endswith(end)]
        if len(found) == 1:
            return found[0].removeprefix(begin).removesuffix(end)
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _temporary_folder() -> Path:
    """Create a private folder where `tempfile` would, whose import takes long."""
    candidates = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    reason: OSError | None = None
    for candidate in [*candidates, "/tmp", "/var/tmp", "/dev/shm"]:
        folder = Path(candidate or "/tmp") / f"edgec-{os.urandom(8).hex()}"
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            reason = error
        else:
            return folder
    raise IncompatibleDevice(
        f"no folder for temporary files is writable ({reason}): set TMPDIR to one that is"
    )


@contextmanager
def code_in_memory(content: bytes, name: str) -> Iterator[Path]:
    """Provide a path from which the dynamic linker loads `content`, without writing it to disk.

    The bytes are in an anonymous memory file and the path is a symlink to it. The symlink's name is unique, because
    the linker takes two libraries at one path for the same. Both can be removed as soon as the library is loaded.
    """
    descriptor = os.memfd_create(f"edgec:{name}", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        folder = _temporary_folder()
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
    """Refuse a tvm-ffi whose object ABI differs from the one that compiled code was built for.

    Raises:
        IncompatibleDevice: not installed, or another version.
    """
    version = _version_of("apache-tvm-ffi", "tvm_ffi")
    if version is None:
        raise IncompatibleDevice(f"apache-tvm-ffi is not installed: pip install apache-tvm-ffi=={TVM_FFI}")
    if version != TVM_FFI:
        _versions.clear()  # the user may install another one, in a notebook even without a new process
        raise IncompatibleDevice(
            f"apache-tvm-ffi {version} is installed here; the runtime ABI {RUNTIME_ABI} needs {TVM_FFI}: "
            f"pip install apache-tvm-ffi=={TVM_FFI}"
        )


def _in_wheel() -> Path | None:
    folder = _folder_of("tvm")
    path = None if folder is None else folder / "lib" / RUNTIME_LIBRARY
    if path is None or not path.is_file():
        return None
    version = _version_of("apache-tvm", "tvm")
    return path if version is not None and version.startswith(TVM_SERIES) else None


def _find() -> Path | None:
    if named := os.environ.get("EDGEC_TVM_RUNTIME"):
        path = Path(named)
        path = path / RUNTIME_LIBRARY if path.is_dir() else path
        if not path.is_file():
            raise IncompatibleDevice(f"EDGEC_TVM_RUNTIME names {named}, where there is no {RUNTIME_LIBRARY}")
        return path.resolve()
    return _in_wheel() or _in_edgec()


def _in_edgec() -> Path | None:
    """The library inside edgec's own wheel for this architecture (`edgec runtime wheel`)."""
    path = Path(__file__).parent.parent / "lib" / RUNTIME_LIBRARY
    return path if path.is_file() else None


def _in_system() -> Path | None:
    return next(
        (path for folder in _SYSTEM_FOLDERS if (path := Path(folder) / RUNTIME_LIBRARY).is_file()), None
    )


def load_installed() -> bool:
    """Load the TVM runtime that is installed on this machine, unless the process has one; returns whether it has now.

    Raises:
        IncompatibleDevice: the file named by the environment does not exist, or the library cannot be loaded.
    """
    with _lock:
        return _load_installed()


def _load_installed() -> bool:
    if _loaded:
        return True
    # Rounds that workers spin for the next kernel before they sleep. TVM's default of 300,000 keeps a core busy for a
    # tenth of a second after every inference; the kernels of a model follow each other within microseconds.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "5000")
    if interface().find("vm.builtin.alloc_storage") is not None:
        return True
    path = _find()
    if path is not None:
        _load(path)
    return path is not None


def ensure_runtime(bundled: Callable[[str], bytes | None]) -> None:
    """Load the TVM runtime into this process, once.

    Args:
        bundled: returns the bytes of a library bundled with the artifact, or None; called only when needed.

    Raises:
        IncompatibleDevice: it was not found, or cannot be loaded; the message says how to provide it.
    """
    with _lock:
        if _load_installed():
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
                f"edgec's wheel for this architecture (`edgec runtime wheel`) or apache-tvm=={TVM}, or compile with "
                "--bundle-runtime"
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


def global_function(name: str) -> Function:
    """Look up a function that the TVM runtime registers."""
    return interface().function(name)

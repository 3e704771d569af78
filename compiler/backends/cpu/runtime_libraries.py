"""The shared libraries that run compiled models, for bundling in an artifact."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgec.compiler.emulation.emulator import INSTALL, SITE, default_root
from edgec.compiler.errors import ToolMissing
from edgec.targets import machine_arch

RUNTIME_LIBRARIES = {
    "libtvm_ffi.so": "tvm_ffi",
    "libtvm_runtime.so": "tvm",
    "libtvm_runtime_extra.so": "tvm",
}


def runtime_libraries(arch: str) -> dict[str, bytes]:
    """The runtime's shared libraries for an architecture, by file name.

    Those of this machine come from the installed packages, others from the emulator's root file system.

    Raises:
        ToolMissing: none for this architecture are here.
    """
    if arch == machine_arch():
        folders = []
        for package in sorted(set(RUNTIME_LIBRARIES.values())):
            spec = importlib.util.find_spec(package)
            folders += [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    else:
        root = default_root(arch) / SITE
        folders = [root / package for package in sorted(set(RUNTIME_LIBRARIES.values()))]
    found: dict[str, bytes] = {}
    for library in RUNTIME_LIBRARIES:
        files = [file for folder in folders for file in sorted(folder.rglob(library))]
        if not files:
            raise ToolMissing(
                f"{library} for {arch} was not found, so it cannot be bundled; "
                f"{INSTALL} fetches it, or omit --bundle-runtime"
            )
        found[library] = files[0].read_bytes()
    return found

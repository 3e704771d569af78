"""edgec's wheel for the machines of one architecture: the package, with TVM's runtime library inside.

`pip install` of such a wheel brings all that a device needs and nothing of TVM's compiler, whose wheel is a hundred
times as large. Installed edgec, editable or not, is the source, so that neither a build tool nor a repository is
needed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgec import targets
from edgec.compiler import wheels
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.device_package.wheel_file import write_wheel
from edgec.compiler.errors import ToolMissing
from edgec.compiler.wheels import Machine
from edgec.runtime.execution.shared_libraries import EXTRA_LIBRARY, RUNTIME_LIBRARY
from edgec.targets import Target

PARTS = ("targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli", "benchmarks")
LIBRARIES = (RUNTIME_LIBRARY, EXTRA_LIBRARY)
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")


def build_wheel(target: Target, folder: Path) -> Path:
    """Write the wheel for machines such as `target` into `folder`.

    Raises:
        ToolMissing: TVM's runtime for the architecture cannot be had.
    """
    libraries = runtime_libraries(target)
    newest = max(int(minor) for code in libraries.values() for minor in _GLIBC.findall(code))
    tag = f"py3-none-manylinux_2_{max(newest, wheels.OLDEST_GLIBC)}_{target.arch}"
    about = metadata.distribution("edgec")
    info = f"edgec-{about.version}.dist-info"
    files = dict(_package())
    files |= {f"edgec/runtime/lib/{name}": code for name, code in libraries.items()}
    for name in ("METADATA", "entry_points.txt", "top_level.txt"):
        if text := about.read_text(name):
            files[f"{info}/{name}"] = text.encode()
    return write_wheel(folder, "edgec", about.version, tag, files)


def runtime_libraries(target: Target) -> dict[str, bytes]:
    """TVM's runtime libraries for a target: those at hand, else out of TVM's wheel for its architecture.

    Raises:
        ToolMissing: there is no wheel, or another kind of device.
    """
    try:
        found = backend_of(target).runtime_libraries()
    except ToolMissing:
        found = _downloaded(target)
    return {name: found[name] for name in LIBRARIES if name in found}


def _downloaded(target: Target) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="edgec-tvm-") as scratch:
        place = Path(scratch)
        machine = Machine(target.arch, "3.11", target.min_glibc)
        wheels.download(
            [f"apache-tvm=={wheels.tvm_version()}"], machine, place / "wheels", dependencies=False
        )
        wheels.unpack(place / "wheels", place / "site")
        return {path.name: path.read_bytes() for path in (place / "site").rglob("libtvm_runtime*.so")}


def _package() -> Iterator[tuple[str, bytes]]:
    """The files of the package that is running, by their names in a wheel."""
    root = Path(targets.__file__).resolve().parent.parent
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and "__pycache__" not in inside.parts and not path.name.startswith("."):
                yield f"edgec/{inside.as_posix()}", path.read_bytes()

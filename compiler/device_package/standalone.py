"""The wheel of `edgec_runtime`: libedgec and a module over it, which require nothing but Python."""

from __future__ import annotations

import dataclasses
import tempfile
from importlib import metadata
from pathlib import Path

import edgec.runtime.standalone
from edgec.compiler import wheels
from edgec.compiler.c_library.libedgec import SHARED, build_libedgec
from edgec.compiler.c_library.toolchain import ARCHITECTURES, Libc
from edgec.compiler.device_package.wheel_file import write_wheel
from edgec.targets import Target, UsageError

NAME = "edgec_runtime"
_PLATFORMS = {"gnu": f"manylinux_2_{wheels.OLDEST_GLIBC}", "musl": "musllinux_1_2"}
_METADATA = """\
Metadata-Version: 2.1
Name: edgec-runtime
Version: {version}
Summary: Runs artifacts of edgec with Python alone
Requires-Python: >=3.11

`edgec_runtime.load` runs `.edge` files; inputs and outputs are buffers of any library. The names are those of
`edgec.runtime`.
"""


def build_standalone_wheel(target: Target, libc: Libc, folder: Path) -> Path:
    """Write the wheel for the architecture of `target` into `folder`: one wheel serves all processors of it.

    Raises:
        UsageError: the target has no processor of its own.
        BuildFailed, ToolMissing: the C compiler failed, or is not installed.
    """
    if target.device_kind != "cpu" or target.arch not in ARCHITECTURES:
        raise UsageError(
            f"{target.name} is a GPU: name the target of the processor beside it, such as jetson-orin"
        )
    version = metadata.version("edgec")
    oldest = dataclasses.replace(target, min_glibc=f"2.{wheels.OLDEST_GLIBC}")
    with tempfile.TemporaryDirectory(prefix="edgec-libedgec-") as scratch:
        build_libedgec(Path(scratch), oldest, libc)
        files = {f"{NAME}/{SHARED}": (Path(scratch) / SHARED).read_bytes()}
    root = Path(edgec.runtime.standalone.__file__).parent
    for path in sorted(root.iterdir()):
        if path.suffix == ".py" or path.name == "py.typed":
            files[f"{NAME}/{path.name}"] = path.read_bytes()
    files[f"{NAME}-{version}.dist-info/METADATA"] = _METADATA.format(version=version).encode()
    return write_wheel(folder, NAME, version, f"py3-none-{_PLATFORMS[libc]}_{target.arch}", files)

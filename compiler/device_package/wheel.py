"""edgec's wheel for the machines of one architecture: the package, with TVM's runtime library inside.

`pip install` of such a wheel brings all that a device needs and nothing of TVM's compiler, whose wheel is a hundred
times as large. Installed edgec, editable or not, is the source, so that neither a build tool nor a repository is
needed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from edgec import targets
from edgec.compiler import wheels
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.errors import ToolMissing
from edgec.compiler.wheels import Machine
from edgec.runtime.execution.shared_libraries import EXTRA_LIBRARY, RUNTIME_LIBRARY
from edgec.targets import Target

PARTS = ("targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli", "benchmarks")
LIBRARIES = (RUNTIME_LIBRARY, EXTRA_LIBRARY)
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")
_STAMP = (2020, 1, 1, 0, 0, 0)  # of every file, so that equal contents give equal wheels


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
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: edgec {about.version}\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"edgec-{about.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in sorted(files.items(), key=lambda item: (".dist-info/" in item[0], item[0])):
            entry = zipfile.ZipInfo(name, _STAMP)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return path


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


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

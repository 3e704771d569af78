"""A folder that installs the runtime and the agent on a device without a network: wheels, library, unit and script."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from edgec.compiler import wheels
from edgec.compiler.device_package.wheel import build_wheel, runtime_libraries
from edgec.compiler.errors import ToolMissing
from edgec.compiler.progress import Progress
from edgec.compiler.wheels import Machine
from edgec.targets import Target, UsageError

SUMS = "SHA256SUMS"
SCRIPT = "install.sh"


def make_bundle(target: Target, folder: Path, python: str, progress: Progress) -> Path:
    """Write the folder.

    Args:
        target: the device.
        folder: to be written; must not exist, or be a bundle.
        python: version of the device's Python, such as `3.11`.

    Raises:
        UsageError: the folder holds something else, or the device runs no code for a processor of its own.
        ToolMissing: a package has no wheel for the device.
    """
    if target.device_kind != "cpu" or target.arch == "any":
        raise UsageError(
            f"{target.name} is a GPU: name the target of the processor beside it, such as jetson-orin"
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / SUMS).is_file():
        raise UsageError(f"{folder}: holds other files; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        building = Path(scratch) / "bundle"
        (building / "lib").mkdir(parents=True)
        progress.stage("wheels")
        wheels.download(
            wheels.requirements(), Machine(target.arch, python, target.min_glibc), building / "wheels"
        )
        progress.stage("package")
        build_wheel(target, building / "wheels")
        for name, code in runtime_libraries(target).items():
            (building / "lib" / name).write_bytes(code)
        for name in ("edgec-agent.service", "config/example.toml"):
            content = resources.files("edgec.device_agent").joinpath(name).read_bytes()
            (building / name.rpartition("/")[2].replace("example", "agent")).write_bytes(content)
        (building / SCRIPT).write_text(_script(target, python), encoding="utf-8")
        (building / SCRIPT).chmod(0o755)
        _sign(building)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    return folder


def _script(target: Target, python: str) -> str:
    text = resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8")
    for name, value in {
        "TARGET": target.name,
        "ARCH": target.arch,
        "PYTHON": python,
        "GLIBC": target.min_glibc,
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def _sign(folder: Path) -> None:
    """Write the digests that the script checks before it installs anything."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in files]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


__all__ = ["SCRIPT", "SUMS", "ToolMissing", "make_bundle"]

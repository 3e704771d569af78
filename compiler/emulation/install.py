"""Prepare the emulator: qemu, a root file system with Python, and the packages that artifacts and the agent run with.

Everything comes from where this machine gets its software: Debian packages by apt, wheels by pip, both as they are
configured here. Nothing is installed in the system and no rights are needed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from edgec.compiler import wheels
from edgec.compiler.emulation import packages
from edgec.compiler.emulation.emulator import (
    QEMU,
    SITE,
    default_root,
    emulator_folder,
    find_qemu,
    guest_python,
)
from edgec.compiler.errors import ToolMissing
from edgec.compiler.progress import Progress
from edgec.compiler.wheels import Machine
from edgec.targets import machine_arch

ARCHITECTURES = ("aarch64",)
SYSTEM = ["python3", "libstdc++6"]  # with what they depend on: libc and all libraries that wheels may use
EMULATOR = ["qemu-user-static"]
BESIDE = ["onnxruntime"]  # runs the parts of a model that cannot be compiled
RECORD = "edgec-root.json"
_ASK = (
    "import json, os, platform, sys; print(json.dumps([platform.python_version(), platform.libc_ver()[1]]))"
)


def wanted() -> dict[str, str]:
    """What decides whether an installed root is up to date: the packages that compiled code has to match."""
    return {name: metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi", "edgec")}


def installed(arch: str) -> dict[str, str] | None:
    """The record of the root file system of an architecture; None if there is none."""
    try:
        record = json.loads((default_root(arch) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {str(key): str(value) for key, value in record.items()}


def install(arch: str, source: Path | None, progress: Progress) -> Path:
    """Prepare the emulator of an architecture, unless it is up to date.

    Args:
        source: a folder that `download` filled; None to fetch the packages now.

    Returns:
        the root file system.

    Raises:
        ToolMissing: a program is missing, a package cannot be had, or the emulated Python does not start.
    """
    _check(arch)
    wheels.tvm_version()
    root = default_root(arch)
    if source is not None and not source.is_dir():
        raise ToolMissing(f"{source}: no such folder; `edgec targets emulator download {source}` fills one")
    with _scratch() as scratch:
        if find_qemu(arch) is None:
            _install_qemu(arch, source / "emulator" if source else None, scratch, progress)
        record = installed(arch)
        if record is not None and wanted().items() <= record.items():
            return root
        building = scratch / "root"
        building.mkdir()
        debs = source / "system" if source else scratch / "system"
        if source is None:
            packages.fetch(SYSTEM, arch, debs, progress)
        packages.unpack(debs, building, progress)
        machine = _ask(arch, building)
        collection = source / "wheels" if source else scratch / "wheels"
        if source is None:
            progress.stage("wheels")
            _fetch_wheels(machine, collection)
        progress.stage("unpack-wheels")
        wheels.unpack(collection, building / SITE)
        _describe_ours(building / SITE)
        progress.stage("bytecode")
        _compile(arch, building, machine)
        content = wanted() | {"python": machine.python, "glibc": machine.glibc}
        (building / RECORD).write_text(json.dumps(content, indent=2), encoding="utf-8")
        building.chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)
        building.rename(root)
    return root


def download(arch: str, folder: Path, progress: Progress) -> None:
    """Fetch all that `install` needs into a folder, for machines without a network.

    Raises:
        ToolMissing: as `install`.
    """
    _check(arch)
    wheels.tvm_version()
    packages.fetch(EMULATOR, machine_arch(), folder / "emulator", progress)
    packages.fetch(SYSTEM, arch, folder / "system", progress)
    with _scratch() as scratch:
        packages.unpack(folder / "emulator", scratch / QEMU, progress)
        packages.unpack(folder / "system", scratch / "root", progress)
        progress.stage("wheels")
        _fetch_wheels(_ask(arch, scratch / "root", _qemu_in(scratch / QEMU, arch)), folder / "wheels")


def _describe_ours(site: Path) -> None:
    """Let the emulated Python know the version of edgec, whose modules it reads from where they are."""
    about = metadata.distribution("edgec")
    folder = site / f"edgec-{about.version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(about.read_text("METADATA") or "", encoding="utf-8")


def _check(arch: str) -> None:
    if arch == machine_arch():
        raise ToolMissing(f"this machine is {arch}: it runs such code without an emulator")
    if arch not in ARCHITECTURES:
        raise ToolMissing(f"there is no emulator for {arch}; there is one for {', '.join(ARCHITECTURES)}")
    if machine_arch() not in packages.DEBIAN_ARCHITECTURES:
        raise ToolMissing(f"there is no emulator for machines of the architecture {machine_arch()}")


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = emulator_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def _install_qemu(arch: str, source: Path | None, scratch: Path, progress: Progress) -> None:
    debs = source or scratch / "emulator"
    if source is None:
        packages.fetch(EMULATOR, machine_arch(), debs, progress)
    building = scratch / QEMU
    packages.unpack(debs, building, progress)
    _qemu_in(building, arch)
    place = emulator_folder() / QEMU
    shutil.rmtree(place, ignore_errors=True)
    building.rename(place)


def _qemu_in(folder: Path, arch: str) -> Path:
    for name in (f"qemu-{arch}-static", f"qemu-{arch}"):
        if (folder / "usr/bin" / name).is_file():
            return folder / "usr/bin" / name
    raise ToolMissing(f"the package {EMULATOR[0]} contains no qemu-{arch}")


def _fetch_wheels(machine: Machine, folder: Path) -> None:
    wheels.download([*wheels.requirements(), *BESIDE], machine, folder)
    wheels.download([f"apache-tvm=={wheels.tvm_version()}"], machine, folder, dependencies=False)


def _python(arch: str, root: Path, qemu: Path | None = None) -> tuple[list[str], dict[str, str]]:
    found = qemu or find_qemu(arch)
    if found is None:
        raise ToolMissing(f"qemu for {arch} is not installed")
    command = [str(found), "-cpu", "max", "-L", str(root), str(guest_python(root))]
    return command, {"PATH": os.environ.get("PATH", ""), "PYTHONHOME": str(root / "usr")}


def _ask(arch: str, root: Path, qemu: Path | None = None) -> Machine:
    """What the Python of a root file system says about itself, emulated: proof that the emulator runs it."""
    command, environment = _python(arch, root, qemu)
    done = subprocess.run(
        [*command, "-c", _ASK], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ToolMissing(
            f"the emulated Python does not start: {done.stderr.strip()[-300:] or done.returncode}"
        )
    version, glibc = json.loads(done.stdout)
    return Machine(arch, ".".join(version.split(".")[:2]), glibc)


def _compile(arch: str, root: Path, machine: Machine) -> None:
    """Compile the modules of Python and of the packages, or every emulated start would take seconds for that."""
    if ".".join(platform.python_version_tuple()[:2]) == machine.python:
        command, environment = [sys.executable], dict(os.environ)
    else:
        command, environment = _python(arch, root)
    folders = [str(root / SITE), *map(str, (root / "usr/lib").glob("python3.*"))]
    names = ["-s", str(root), "-p", str(default_root(arch))]  # as tracebacks will show them
    compiling = [*command, "-m", "compileall", "-qq", *names, *folders]
    subprocess.run(
        compiling, env=environment, capture_output=True, check=False
    )  # files of other versions fail

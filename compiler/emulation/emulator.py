"""Run code of another processor here: qemu's user mode on a folder with that architecture's Python.

`edgec.compiler.emulation.install` prepares the folder: a root file system with CPython, and the packages that the
runtime and the agent need. qemu looks up every path below its `-L` folder first. That is one folder for each
processor: links into the root, the `/proc/cpuinfo` of that processor (libraries that read the host's crash), and a
script `python3` that starts the emulated interpreter. The interpreter takes the script for itself, so that it is
emulated again in the processes that a program starts.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgec import targets
from edgec.compiler.emulation.avx_vnni import VnniEmulator, lacks_only_vnni
from edgec.targets import Target, machine_arch, usable_cores
from edgec.targets.cpuinfo import cpuinfo_of

ROOT_VARIABLE = "EDGEC_EMULATOR_ROOT"
INSTALL = "`edgec targets emulator install`"
SITE = "site-packages"  # of the root
BOARDS = "boards"  # of the root: one folder for each emulated processor
OURS = "ours"  # of a board: a folder with the package `edgec` that is running, however it is installed here
QEMU = "qemu"  # beside the roots: qemu itself, where the system has none


@dataclass(frozen=True)
class Emulator:
    """An emulator that is installed here.

    Attributes:
        qemu: the program.
        cpu: its `-cpu` option.
        board: the folder that it looks up paths in first.
        root: the root file system with the architecture's own Python; None to run this Python as it is.
    """

    qemu: Path
    cpu: str
    board: Path
    root: Path | None

    @property
    def description(self) -> str:
        """A description such as `qemu-aarch64-static -cpu cortex-a72`."""
        return f"{self.qemu.name} -cpu {self.cpu}"

    @property
    def is_hardware(self) -> bool:
        """False: times in an emulator say nothing about the target."""
        return False

    def command(
        self, arguments: list[str], python_path: Path | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run Python with these arguments in the emulator.

        Args:
            arguments: of the interpreter.
            python_path: a folder with the package `edgec`; by default there is the one that is running.
        """
        if self.root is None:
            command = [str(self.qemu), "-cpu", self.cpu, "-L", str(self.board), sys.executable]
            return [*command, *arguments], dict(os.environ)
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": f"{self.root / SITE}:{python_path or self.board / OURS}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return [str(self.board / "python3"), *arguments], environment


def emulator_folder() -> Path:
    """The folder of everything that emulation needs: `$EDGEC_EMULATOR_ROOT`, or one in the cache."""
    named = os.environ.get(ROOT_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(named).absolute() if named else cache / "edgec" / "emulator"


def default_root(arch: str) -> Path:
    """Where the root file system of an architecture is expected."""
    return emulator_folder() / arch


def find_qemu(arch: str) -> Path | None:
    """qemu's user mode for an architecture: the system's, or the one that was installed beside the roots."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(emulator_folder() / QEMU / "usr/bin")])
    for name in (f"qemu-{arch}-static", f"qemu-{arch}"):
        if found := shutil.which(name, path=places):
            return Path(found)
    return None


def lacking(target: Target) -> str:
    """Why code for `target` cannot be emulated here, with the way out; empty if it can."""
    if lacks_only_vnni(target):
        return ""
    return _qemu_lacks(target)


def _qemu_lacks(target: Target) -> str:
    if target.emulator is None:
        return f"qemu emulates no processor that runs code for {target.name}"
    if find_qemu(target.arch) is None:
        return f"qemu for {target.arch} is not installed: {INSTALL} installs it"
    if target.arch != machine_arch() and not _is_root(default_root(target.arch)):
        return f"there is no root file system for {target.arch} in {default_root(target.arch)}: {INSTALL} makes one"
    return ""


def find_emulator(target: Target) -> Emulator | VnniEmulator | None:
    """The emulator for a target; None where `lacking` says why there is none."""
    if lacks_only_vnni(target):
        return VnniEmulator(emulator_folder() / machine_arch())
    return find_qemu_for(target)


def find_qemu_for(target: Target) -> Emulator | None:
    """qemu as a target's processor, if it is prepared."""
    qemu = find_qemu(target.arch)
    if _qemu_lacks(target) or qemu is None or target.emulator is None:
        return None
    root = default_root(target.arch) if target.arch != machine_arch() else None
    board = _board(target, qemu, root)
    return Emulator(qemu, target.emulator, board, root)


def _is_root(folder: Path) -> bool:
    return (folder / SITE).is_dir() and (folder / "usr/bin/python3").exists()


def guest_python(root: Path) -> Path:
    """The interpreter of a root file system."""
    return (root / "usr/bin" / (root / "usr/bin/python3").readlink()).absolute()


def _board(target: Target, qemu: Path, root: Path | None) -> Path:
    """The folder of a target's processor, made if it does not exist."""
    cores = usable_cores()
    numbers = "0" if cores == 1 else f"0-{cores - 1}"
    files = {"proc/cpuinfo": cpuinfo_of(target, cores)}
    files |= {f"sys/devices/system/cpu/{name}": f"{numbers}\n" for name in ("possible", "present", "online")}
    folder = (root or emulator_folder() / platform.machine()) / BOARDS
    if root is not None:
        options = [
            "-cpu",
            str(target.emulator),
            "-0",
            str(folder / "NAME" / "python3"),
            "-L",
            str(folder / "NAME"),
        ]
        line = shlex.join([str(qemu), *options, str(guest_python(root))])
        files["python3"] = f'#!/bin/sh\nexec {line} "$@"\n'
    package = Path(targets.__file__).resolve().parent.parent
    digest = hashlib.sha256(repr([package, sorted(files.items())]).encode()).hexdigest()[:8]
    board = folder / f"{target.name}-{digest}"
    if board.is_dir():
        return board
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        for name, content in files.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.replace(f"{BOARDS}/NAME", f"{BOARDS}/{board.name}"), encoding="utf-8")
        (building / OURS).mkdir()
        (building / OURS / "edgec").symlink_to(package, target_is_directory=True)
        if root is not None:
            (building / "python3").chmod(0o755)
            for entry in root.iterdir():
                if entry.name not in (BOARDS, SITE):
                    (building / entry.name).symlink_to(Path("..", "..", entry.name))
        building.chmod(0o755)
        with suppress(OSError):  # another process has made it meanwhile
            building.rename(board)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return board

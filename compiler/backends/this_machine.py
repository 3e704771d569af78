"""Run artifacts in a process on this machine: a `Runner` for local hardware."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ThisMachine:
    """Python as it runs here."""

    description: str = "this machine"
    is_hardware: bool = True

    def command(self, arguments: list[str], python_path: Path) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run Python with these arguments; `edgec` is installed here."""
        return [sys.executable, *arguments], dict(os.environ)

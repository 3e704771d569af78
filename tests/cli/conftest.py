"""The `edgec` command as a user calls it, with and without the packages of its extras."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import pytest

from edgec.cli.extras import EXTRAS

HIDE = """
import os
from importlib.machinery import PathFinder

hidden = os.environ["EDGEC_TEST_HIDDEN"].split()
find = PathFinder.find_spec.__func__


def find_spec(cls, name, path=None, target=None):
    if any(name == one or name.startswith(one + ".") for one in hidden):
        return None
    return find(cls, name, path, target)


PathFinder.find_spec = classmethod(find_spec)
"""
"""A sitecustomize.py for processes that are not to find certain modules, as if they had never been installed."""


class Edgec(Protocol):
    """Runs `edgec` with arguments, in `cwd`, without `hidden` modules and the modules of the extras `without`."""

    def __call__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        without: Iterable[str] = (),
        hidden: Iterable[str] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def edgec(tmp_path_factory: pytest.TempPathFactory) -> Edgec:
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cwd")
    (site / "sitecustomize.py").write_text(HIDE)

    def call(
        *arguments: object,
        cwd: Path | None = None,
        without: Iterable[str] = (),
        hidden: Iterable[str] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        variables = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (environment or {})
        gone = [*hidden, *(module for extra in without for module in EXTRAS[extra])]
        if gone:
            variables |= {"PYTHONPATH": str(site), "EDGEC_TEST_HIDDEN": " ".join(gone)}
        command = [sys.executable, "-m", "edgec.cli.main", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd or elsewhere, capture_output=True, text=True, check=False, timeout=280, env=variables,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return call

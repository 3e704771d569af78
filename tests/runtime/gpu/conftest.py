"""The driver of the tests, built and opened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgec.runtime.gpu.driver import CudaDriver
from edgec.runtime.gpu.driver_library import DriverLibrary

SOURCE = Path(__file__).with_name("driver.c")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", made, SOURCE],
        check=True,
    )
    return made


@pytest.fixture
def driver(library: Path) -> Iterator[CudaDriver]:
    made = CudaDriver(DriverLibrary(str(library)))
    yield made
    made.generations.number += 1  # what a test left behind is gone
    made.reset()

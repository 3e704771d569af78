"""Behind a run of the OpenCL suite: how many models and kernels it was, and their largest errors."""

from __future__ import annotations

import pytest

from tests.compiler.backends.opencl.tally import TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if TALLY.models:
        terminalreporter.section("OpenCL")
        for line in TALLY.lines():
            terminalreporter.write_line(line)

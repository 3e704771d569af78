"""Fixtures that every package's tests share, the seeds of generated examples, and the rule for skips."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_OURS_TO_MEET = "hardware:"
"""How the reason of a skip begins that no install step of `.ci/run` could have prevented.

One that begins with `optional:` names an extra of which `make test` can do without; CI installs them all (EXTRAS).
"""

# Before numpy and PyTorch are imported: idle threads of their libraries spin, and the other tests need the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("fixed", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("free", deadline=None, print_blob=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models, pictures, video and sound; absent from a user's clone."""
    folder = Path(os.environ.get("EDGEC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").is_file():
        pytest.skip(
            f"the real test data is not here ({folder.name} has no MANIFEST.md); set EDGEC_DATA to it"
        )
    return folder


class SkipsInCi:
    """Fails a run in CI that skipped what an install step could have met."""

    def __init__(self) -> None:
        self.avoidable: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            if not reason.removeprefix("Skipped: ").startswith(NOT_OURS_TO_MEET):
                self.avoidable.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.avoidable:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.avoidable:
            terminalreporter.section("skips that an install step could have met", red=True)
            for line in self.avoidable:
                terminalreporter.write_line(line)


def pytest_collection_finish() -> None:
    """What all tests import and are lives to the end: each full garbage collection would go through millions of it."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    if "EDGEC_CACHE" not in os.environ:  # else the processes of one run share what the first of them set
        folder = TemporaryDirectory(prefix="edgec-tests-cache-")
        os.environ["EDGEC_CACHE"] = folder.name
        config.add_cleanup(folder.cleanup)
    # A change must not fail on an example that another one's run happened to skip. Only `make test-long` explores
    # with fresh seeds; what it finds becomes an example of its own in the default run.
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("free" if config.option.markexpr == "long" else "fixed")
    if os.environ.get("CI"):
        config.pluginmanager.register(SkipsInCi())

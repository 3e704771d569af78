"""The demo's server and agent: child processes that end with it, whatever happens."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgec.benchmarks.processes import end_with_parent
from edgec.targets.errors import EdgecError

GOODBYE_S = 15.0


class DemoFailed(EdgecError):
    """A part of the demo failed; the message names it and shows the end of its output."""


class Process:
    """`edgec <arguments>` as a child process, with its output in a log file.

    The process has its own session, so that Ctrl-C in the terminal reaches only the demo, which then stops its
    processes in order. If the demo is killed, the kernel signals them.
    """

    def __init__(self, name: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "edgec.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=end_with_parent,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def first_json_line(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the line of JSON that says that it is ready.

        Raises:
            DemoFailed: it ended, or said nothing for `timeout_s`.
        """
        stream = self._popen.stdout
        assert stream is not None
        end, text = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in text:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise self.failed(f"was not ready after {timeout_s:g} s")
                part = os.read(stream.fileno(), 65536)
                if not part:
                    raise self.failed("ended before it was ready")
                text += part
        document: dict[str, Any] = json.loads(text.partition(b"\n")[0])
        return document

    def check(self) -> None:
        """Check that the process is still running.

        Raises:
            DemoFailed: It has ended.
        """
        if self._popen.poll() is not None:
            raise self.failed(f"ended with status {self._popen.returncode}")

    def failed(self, what: str) -> DemoFailed:
        """Return an error with the last lines of the process's output."""
        words = self._log.read_text(errors="replace").strip().splitlines()[-4:]
        return DemoFailed("\n".join([f"the {self.name} {what}", *(f"  {line}" for line in words)]))

    def stop(self) -> None:
        """Terminate the process, and kill it if it does not end."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


def start(stack: ExitStack, name: str, arguments: list[str], folder: Path) -> Process:
    """Start a process that `stack` stops."""
    process = Process(name, arguments, folder / f"{name.replace(' ', '-')}.log")
    stack.callback(process.stop)
    return process


def edgec(*arguments: str) -> None:
    """Run `edgec <arguments>` to completion.

    Raises:
        DemoFailed: The command failed; the message contains its output.
    """
    result = subprocess.run(
        [sys.executable, "-m", "edgec.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise DemoFailed(f"edgec {arguments[0]} failed: {(result.stderr or result.stdout).strip()}")

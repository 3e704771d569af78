"""Processes of `edgec` that are forked from one which has imported the large packages already.

Importing them is most of what a short command or the start of a server takes. What these processes do is otherwise
what `python -m edgec.cli.main` does: arguments, environment, folder, signals, standard streams, the interpreter's end.
A test of imports, of installations or of the interpreter itself starts a real one.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from json import dumps
from pathlib import Path
from typing import IO

from edgec.benchmarks.processes import end_with_parent

PARENT = Path(__file__).with_name("preloaded_parent.py")
# Nothing here may read the environment when it is imported, or start a thread.
EVERY = ("typer", "rich.console", "rich.markdown", "numpy", "msgspec")
FLEET = (*EVERY, "edgec.fleet.server")
COMPILER = (*EVERY, "edgec.compiler.pipeline", "onnxruntime")
MODULES = dict.fromkeys(("fleet", "devices", "push", "deploy", "captures", "experiments"), FLEET) | (
    dict.fromkeys(("compile", "inspect", "verify", "bench", "profile", "debug"), COMPILER)
)
"""What to import for a command, beside what every command imports."""
SET_EARLY = ("PYTHON", "LD_", "LANG", "LC_", "TZ", "TMPDIR")
"""How variables begin that an interpreter or its loader reads when it starts, or keeps."""
_BEGUN = dict(os.environ)


class Process:
    """A process of `edgec`, with the methods of `subprocess.Popen` that tests of servers use."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._said = b""
        while b"\n" not in self._said:
            self._read()
        self.pid = int(self._said.split(b"\n")[0])
        self.returncode: int | None = None

    def _read(self) -> None:
        said = os.read(self._status, 64)
        if not said:
            raise AssertionError("the process that forks has died")
        self._said += said

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._await(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        status = self._await(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(["edgec"], timeout or 0.0)
        return status

    def _await(self, timeout: float | None) -> int | None:
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._status], [], [], left)[0]:
                return None
            self._read()
            if self._said.count(b"\n") == 2:
                self.returncode = int(self._said.split(b"\n")[1])
                os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def _parent(modules: tuple[str, ...]) -> socket.socket:
    """The socket of a process that has imported `modules`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = _BEGUN | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        [sys.executable, str(PARENT), *modules],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def start(
    *arguments: object,
    stdout: IO[bytes],
    stderr: IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Path | None = None,
) -> Process | subprocess.Popen[bytes]:
    """Start `edgec`, or the script `program` in an interpreter of its own, with `arguments`."""
    environment = dict(os.environ if env is None else env)
    words = list(map(str, arguments))
    modules = MODULES.get(words[0] if words else "", EVERY)
    if program is not None or _set_early(environment) != _set_early(_BEGUN):
        command = [sys.executable, *(["-m", "edgec.cli.main"] if program is None else [str(program)]), *words]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=cwd, env=environment,
            preexec_fn=end_with_parent,
        )  # fmt: skip
    reader, writer = os.pipe()
    request = {
        "module": "edgec.cli.main", "arguments": words, "cwd": str(cwd or Path.cwd()), "environment": environment
    }  # fmt: skip
    with Path(os.devnull).open("rb") as stdin:
        streams = [stdin.fileno(), stdout.fileno(), stderr.fileno(), writer]
        socket.send_fds(_parent(modules), [dumps(request).encode()], streams)
    os.close(writer)
    return Process(reader)


def _set_early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(SET_EARLY)}


def run(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 280.0
) -> subprocess.CompletedProcess[str]:
    """Run `edgec` with `arguments` to its end, as `subprocess.run` does with `capture_output` and `text`.

    Raises:
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(*arguments, stdout=stdout, stderr=stderr, env=env, cwd=cwd)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        told = []
        for stream in (stdout, stderr):
            stream.seek(0)
            told.append(stream.read().decode().replace("\r\n", "\n").replace("\r", "\n"))
    return subprocess.CompletedProcess(["edgec", *map(str, arguments)], status, *told)

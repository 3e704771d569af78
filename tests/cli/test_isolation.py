"""A crash of a library ends a command with a message; signals and the exit status pass through."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

START = """
import os, signal, sys, time
from edgec.cli.isolation import isolate, tell_stage
from edgec.targets.errors import EdgecError
try:
    isolate("the compiler", advice="see there", **{limits})
    tell_stage("importing the graph")
    print("ready", flush=True)
    {body}
except EdgecError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(body: str, limits: str = "{}") -> subprocess.Popen[str]:
    code = START.replace("{body}", body).replace("{limits}", limits)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE", "SIGKILL"])
def test_a_crash_is_a_message_that_names_the_stage(name: str) -> None:
    process = start(f"os.kill(os.getpid(), signal.{name})")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    first, second = told.splitlines()
    assert first.startswith(f"the compiler crashed ({name}) while importing the graph")
    assert second == "see there"


def test_the_exit_status_and_the_output_are_those_of_the_child() -> None:
    process = start("print('out'); sys.exit(4)")
    assert process.communicate(timeout=60)[0] == "ready\nout\n"
    assert process.returncode == 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_reach_the_child(number: signal.Signals, status: int) -> None:
    process = start("signal.pause()")
    assert process.stdout
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status


def test_ctrl_c_on_a_terminal_arrives_once() -> None:
    body = """
    came = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    print("armed", flush=True)
    while not came:
        time.sleep(0.05)
    time.sleep(0.3)  # a second one would come now
    print(f"{len(came)} interrupts", flush=True)
    sys.exit(130)"""
    code = START.replace("{body}", body).replace("{limits}", "{}")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    while b"armed" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    try:
        while chunk := os.read(terminal, 1000):
            shown += chunk
    except OSError:  # the terminal's other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert b"1 interrupts" in shown


def test_time_and_memory_have_limits() -> None:
    process = start("signal.pause()", '{"time_s": 1.0}')
    _, told = process.communicate(timeout=60)
    assert told.startswith("the compiler was not done after 1 s and was ended while importing the graph.")
    process = start("bytearray(3 << 30)", '{"memory_bytes": 1 << 30}')
    assert "MemoryError" in process.communicate(timeout=60)[1]


def test_the_child_dies_with_the_parent() -> None:
    process = start("signal.pause()")
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # its end of the pipe is closed, so it has ended

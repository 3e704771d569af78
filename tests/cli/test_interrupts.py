"""Ctrl-C that arrives where Python can only forget it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, time
from edgec.cli.interrupts import lasting_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

class Finalised:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

try:
    with lasting_interrupts():
        Finalised()
        time.sleep(30)
        print("never told")
except KeyboardInterrupt:
    print("told")
"""


def test_an_interrupt_inside_a_finaliser_still_interrupts() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.stdout, result.stderr) == ("told\n", "")


def test_other_lost_exceptions_are_still_shown() -> None:
    program = PROGRAM.replace("signal.raise_signal(signal.SIGINT)", "1 / 0").replace("sleep(30)", "sleep(0)")
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout == "never told\n"
    assert "ZeroDivisionError" in result.stderr

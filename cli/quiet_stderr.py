"""Keep TVM's own warnings, and LiteRT's reports of what it has started, from the terminal.

Both write them from C++ straight to the file descriptor of standard error, without a setting to stop it. They speak of
their own insides, and nothing in them is for the user of a compiler.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

STDERR = 2
CLOSING_S = 2.0
# "[06:29:21] /project/src/tirx/op/op.cc:275: Warning: …", "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
NOTICE = re.compile(rb"\[\d\d:\d\d:\d\d\] \S+:\d+: Warning: |INFO: .*TensorFlow Lite")
# A process of its own passes on everything else: a thread would wait for the interpreter's lock, which a TVM that fills
# the pipe may hold, and would lose the last words of a process that crashes.
_FILTER = f"""
import re, sys
notice = re.compile({NOTICE.pattern!r})
for line in iter(sys.stdin.buffer.readline, b""):
    if not notice.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


@contextmanager
def without_notices() -> Iterator[None]:
    """Drop TVM's warnings and LiteRT's reports from what this process and its children write to standard error.

    Python's own `sys.stderr` meanwhile writes past the filter, so that progress bars see a terminal. Nothing happens
    where it is no file of the system, such as in a test.
    """
    python = sys.stderr
    try:
        replaced = python.fileno() == STDERR
    except (OSError, ValueError, AttributeError):
        replaced = False
    if not replaced:
        yield
        return
    python.flush()
    real = os.dup(STDERR)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER],
        stdin=subprocess.PIPE,
        stdout=real,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), STDERR)
    process.stdin.close()
    sys.stderr = direct = _writer(real, python)
    try:
        yield
    finally:
        direct.flush()
        sys.stderr = python
        os.dup2(real, STDERR)
        # It ends with its last writer; a child of ours that lives on keeps it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSING_S)
        os.close(real)


def _writer(descriptor: int, like: TextIO) -> TextIO:
    return open(descriptor, "w", encoding=like.encoding, errors=like.errors, buffering=1, closefd=False)

"""What the decoders complain about: FFmpeg and libjpeg return a damaged picture as if it were a whole one.

They conceal what is missing and say so on standard output and error alone, so a capture process listens there.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

_DAMAGE = re.compile(
    r"OPENCV:FFMPEG:(?:00|08|16)\] *(?P<ffmpeg>.+)|(?P<image>(?:Corrupt JPEG|Premature end|libpng error).*)"
)
_MOST = 1 << 16
_UNBUFFERED = 2  # `_IONBF`


class Complaints:
    """Reads what libraries print in this process; Python's own `sys.stderr` still leads outside.

    Both ends of the pipe are non-blocking: a library that prints more than fits loses text, and never waits.
    """

    def __init__(self) -> None:
        self._from, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        for printed in (1, 2):
            os.dup2(into, printed)
        os.close(into)
        # C's standard output would keep what it is given until some thousand bytes are together, now that it is a pipe.
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _UNBUFFERED, 0)

    def take(self) -> str:
        """Return the first complaint about a picture since the last call; empty if there was none."""
        try:
            text = os.read(self._from, _MOST).decode(errors="replace")
        except BlockingIOError:
            return ""
        found = _DAMAGE.search(text)
        return (found["ffmpeg"] or found["image"]).strip() if found else ""

"""Ctrl-C that takes effect wherever it arrives."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 0.05


@contextmanager
def lasting_interrupts() -> Iterator[None]:
    """Send an interrupt again that was lost.

    When a signal arrives inside a finaliser, a weak reference's callback or a callback from C, Python can only
    print "Exception ignored in …" and forget the ``KeyboardInterrupt``: the work goes on, and the user sees a
    traceback that is nobody's fault. In the block such an exception is not printed, and SIGINT is sent again
    shortly after, until it arrives where it can be raised. Call it from the main thread.
    """
    before = sys.unraisablehook
    main = threading.get_ident()

    def hook(lost: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)
            return
        timer = threading.Timer(AGAIN_S, signal.pthread_kill, (main, signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before

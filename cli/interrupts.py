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
    """Repeat interrupts that Python loses.

    When a signal arrives inside a finaliser, the callback of a weak reference or a callback from C, Python can only
    print "Exception ignored in …" and discard the `KeyboardInterrupt`: the work continues, and the user sees a
    traceback that points to no defect. Within this context such an exception is not printed. Instead SIGINT is sent
    again shortly afterwards, until it arrives where it can be raised. Enter the context from the main thread.
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

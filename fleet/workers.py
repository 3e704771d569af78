"""Worker threads of the server, and what happens when one dies."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from edgec.fleet.errors import FleetError

log = logging.getLogger(__name__)


class Workers:
    """The worker threads. One that dies ends the process: a server that looks alive but no longer ingests is
    worse than one that its supervisor restarts, and nothing that was acknowledged is lost."""

    def __init__(self) -> None:
        self.failed: tuple[str, BaseException] | None = None
        self.threads: dict[str, threading.Thread] = {}

    def start(
        self,
        stack: ExitStack,
        name: str,
        target: Callable[..., None],
        stop: Callable[[], None],
        *args: object,
    ) -> None:
        """Run `target` in a thread, which `stack` ends by `stop`."""
        thread = threading.Thread(target=self.guarded, args=(name, target, *args), name=name, daemon=True)
        self.threads[name] = thread
        thread.start()

        def end() -> None:
            stop()
            thread.join(30)

        stack.callback(end)

    def guarded(self, name: str, target: Callable[..., None], *args: object) -> None:
        """Run `target`; any exception ends the process."""
        try:
            target(*args)
        except (
            BaseException
        ) as error:  # Whatever ends a worker must end the server, or it would only look alive.
            self.failed = self.failed or (name, error)
            log.critical("the worker %r died; the server stops", name, exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)

    def check(self) -> None:
        """Raise the error of a worker, after the server has stopped.

        Raises:
            FleetError: a worker died.
        """
        if self.failed is not None:
            name, error = self.failed
            raise FleetError(f"the server stopped because its worker {name!r} died: {error}") from error

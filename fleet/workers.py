"""Threads that do the server's work, and what happens when one dies."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from edgec.fleet.errors import FleetError

log = logging.getLogger(__name__)


class Workers:
    """The threads that do the server's work. One that dies takes the process with it: a server that looks alive and
    no longer ingests is worse than one that its supervisor starts again, and nothing that was confirmed is lost."""

    def __init__(self) -> None:
        self.failed: tuple[str, BaseException] | None = None

    def guarded(self, name: str, target: Callable[..., None], *args: object) -> None:
        """Run `target`; what it raises ends the process."""
        try:
            target(*args)
        except BaseException as error:
            self.failed = self.failed or (name, error)
            log.critical("the worker %r died; the server stops", name, exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)

    def check(self) -> None:
        """After the server's end.

        Raises:
            FleetError: a worker died.
        """
        if self.failed is not None:
            name, error = self.failed
            raise FleetError(f"the server stopped because its worker {name!r} died: {error}") from error

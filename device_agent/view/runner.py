"""The supervisor's side of the live view: its process, and one ring per stream."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, assert_never

from edgec.device_agent.config.settings import StreamSection, ViewSection
from edgec.device_agent.errors import ConfigError
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.ring import Ring
from edgec.device_agent.process.supervisor import Exit, StartMessage, Supervisor
from edgec.device_agent.view.messages import (
    FROM_VIEW,
    FromView,
    HideStream,
    ShowStream,
    StartView,
    ViewFailed,
    ViewListening,
    WatchChanged,
)

log = logging.getLogger("view")

_SLOT_BYTES = 3840 * 2160 * 3 + 65536
_RETRY = RetryPolicy(first_s=5.0, max_s=5.0, jitter=False)


class ViewRunner:
    """Keeps the view's process running; `on_watch(stream, on)` is called when watching begins or ends."""

    def __init__(
        self, loop: Loop, settings: ViewSection, device: str, on_watch: Callable[[str, bool], None]
    ) -> None:
        self._settings, self._device, self._on_watch = settings, device, on_watch
        self._rings: dict[str, tuple[Ring, int, list[dict[str, Any]]]] = {}
        self._process = Supervisor(
            loop, "view", "edgec.device_agent.view.worker", FROM_VIEW,
            first=self._first, on_message=self._take, on_exit=self._exited, retry=_RETRY, on_start=self._show_all,
        )  # fmt: skip
        self.port: int | None = None
        self.watched: set[str] = set()

    @property
    def pid(self) -> int | None:
        """Process id of the view's process."""
        return self._process.pid

    def start(self) -> None:
        """Start the process.

        Raises:
            ConfigError: the token's file cannot be read.
        """
        self._process.start()

    def _first(self) -> StartMessage:
        token = self._settings.token
        if self._settings.token_file is not None:
            try:
                token = self._settings.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(
                    f"view.token_file: {self._settings.token_file}: {error.strerror}"
                ) from error
        return StartView(self._device, self._settings.host, self._settings.port, token), ()

    def _show_all(self) -> None:
        for name, (ring, ready, zones) in self._rings.items():
            self._process.send(ShowStream(name, zones), (ring.fd, ready))

    def add(self, name: str, settings: StreamSection) -> tuple[int, int]:
        """Create a stream's ring; returns its descriptors for the inference process."""
        zones: list[dict[str, Any]] = [zone.model_dump(mode="json") for zone in settings.zones]
        zones += [{"name": rule.name, "polygon": rule.line} for rule in settings.rules if rule.line]
        ring, ready = (
            Ring.create(3, _SLOT_BYTES, f"view-{name}"),
            os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
        )
        self._rings[name] = (ring, ready, zones)
        self._process.send(ShowStream(name, zones), (ring.fd, ready))
        return ring.fd, ready

    def remove(self, name: str) -> None:
        """Release a stream's ring."""
        if (entry := self._rings.pop(name, None)) is not None:
            self._process.send(HideStream(name))
            entry[0].close()
            os.close(entry[1])

    def close(self) -> None:
        """End the process."""
        self._process.close()
        for name in list(self._rings):
            self.remove(name)

    def _take(self, message: FromView) -> None:
        match message:
            case ViewListening():
                self.port = message.port
                log.info("live view on http://%s:%s/", self._settings.host, self.port)
            case ViewFailed():
                log.error("%s", message.message)
            case WatchChanged():
                (self.watched.add if message.on else self.watched.discard)(message.stream)
                self._on_watch(message.stream, message.on)
            case _:
                assert_never(message)

    def _exited(self, how: Exit) -> bool:
        for name in list(self.watched):
            self._on_watch(name, False)
        self.watched.clear()
        log.warning("the view's process %s; it is restarted", how)
        return True

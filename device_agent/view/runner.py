"""The supervisor's side of the live view: its process, and a ring for each stream."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from edgec.device_agent.config.settings import StreamSection, ViewSection
from edgec.device_agent.errors import ConfigError
from edgec.device_agent.process import child
from edgec.device_agent.process.channel import ChannelClosed
from edgec.device_agent.process.loop import Loop, Timer
from edgec.device_agent.process.ring import Ring

log = logging.getLogger("view")

_SLOT_BYTES = 3840 * 2160 * 3 + 65536
_AGAIN_S = 5.0


class ViewRunner:
    """Keeps the view's process running; ``on_watch(stream, on)`` says that somebody looks at a stream."""

    def __init__(
        self, loop: Loop, settings: ViewSection, device: str, on_watch: Callable[[str, bool], None]
    ) -> None:
        self._loop, self._settings, self._device, self._on_watch = loop, settings, device, on_watch
        self._rings: dict[str, tuple[Ring, int, list[dict[str, object]]]] = {}
        self._child: child.Child | None = None
        self._timer: Timer | None = None
        self.port: int | None = None
        self.watched: set[str] = set()

    @property
    def pid(self) -> int | None:
        """The view's process."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process."""
        token = self._settings.token
        if self._settings.token_file is not None:
            try:
                token = self._settings.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(
                    f"view.token_file: {self._settings.token_file}: {error.strerror}"
                ) from error
        process = child.spawn("view", "edgec.device_agent.view.worker")
        self._child = process
        self._loop.add_reader(process.channel.fileno(), lambda: self._heard(process))
        self._loop.add_reader(process.pidfd, lambda: self._died(process))
        settings = {"host": self._settings.host, "port": self._settings.port, "token": token}
        process.channel.send({"device": self._device, **settings})
        for name, (ring, ready, zones) in self._rings.items():
            process.channel.send({"op": "stream", "stream": name, "zones": zones}, (ring.fd, ready))

    def add(self, name: str, settings: StreamSection) -> tuple[int, int]:
        """Make a stream's ring; returns its descriptors for the inference process."""
        zones: list[dict[str, object]] = [zone.model_dump(mode="json") for zone in settings.zones]
        zones += [{"name": rule.name, "polygon": rule.line} for rule in settings.rules if rule.line]
        ring, ready = (
            Ring.create(3, _SLOT_BYTES, f"view-{name}"),
            os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
        )
        self._rings[name] = (ring, ready, zones)
        self._tell({"op": "stream", "stream": name, "zones": zones}, (ring.fd, ready))
        return ring.fd, ready

    def remove(self, name: str) -> None:
        """Let a stream's ring go."""
        if (entry := self._rings.pop(name, None)) is not None:
            self._tell({"op": "remove", "stream": name})
            entry[0].close()
            os.close(entry[1])

    def close(self) -> None:
        """End the process."""
        if self._timer:
            self._timer.cancel()
        if self._child is not None:
            process, self._child = self._child, None
            process.kill()
            self._forget(process)
        for name in list(self._rings):
            self.remove(name)

    def _tell(self, body: dict[str, object], fds: tuple[int, ...] = ()) -> None:
        if self._child is not None:
            try:
                self._child.channel.send(body, fds)
            except ChannelClosed:
                log.info("the view's process is gone; its next one is told")

    def _heard(self, process: child.Child) -> None:
        try:
            body, _ = process.channel.receive()
        except ChannelClosed:
            self._loop.remove_reader(process.channel.fileno())
            return
        match body["op"]:
            case "listening":
                self.port = body["port"]
                log.info("live view on http://%s:%s/", self._settings.host, self.port)
            case "failed":
                log.error("%s", body["message"])
            case "watch":
                (self.watched.add if body["on"] else self.watched.discard)(body["stream"])
                self._on_watch(body["stream"], body["on"])

    def _died(self, process: child.Child) -> None:
        self._forget(process)
        self._child = None
        for name in list(self.watched):
            self._on_watch(name, False)
        self.watched.clear()
        log.warning("the view's process has ended; it is started again")
        self._timer = self._loop.call_later(_AGAIN_S, self.start)

    def _forget(self, process: child.Child) -> None:
        for fd in (process.channel.fileno(), process.pidfd):
            try:
                self._loop.remove_reader(fd)
            except KeyError:
                continue  # the channel's end was read before
        process.reap()

"""Notifications to systemd: ready, alive (for its watchdog), stopping; see sd_notify(3)."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Sends to `NOTIFY_SOCKET`; does nothing without one."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self._watchdog = "WATCHDOG_USEC" in os.environ

    def ready(self) -> None:
        """The agent is up."""
        self._send("READY=1")

    def alive(self) -> None:
        """The supervisor's loop is running."""
        if self._watchdog:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The agent stops on purpose."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(text.encode(), address)
            except OSError:
                self._address = ""  # systemd is gone

"""A Unix socket in the state folder that reports the agent's health, for `edgec agent status`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgec.device_agent.errors import AgentError
from edgec.device_agent.process.loop import Loop

_NAME = "agent.sock"


class StatusSocket:
    """The agent's end."""

    def __init__(
        self, loop: Loop, state: Path, report: Callable[[Callable[[dict[str, Any]], None]], None]
    ) -> None:
        self._loop, self._report = loop, report
        self._path = state / _NAME
        if self._path.exists():
            self._path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _with_short_name(state, self._socket.bind)
        self._path.chmod(0o600)
        self._socket.listen(4)
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._asked)

    def _asked(self) -> None:
        peer, _ = self._socket.accept()

        def answer(body: dict[str, Any]) -> None:
            with peer:
                peer.settimeout(1.0)
                try:
                    peer.sendall(json.dumps(body).encode())
                except OSError:
                    return  # the client is gone

        self._report(answer)

    def close(self) -> None:
        """Stop answering."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)


def query(state: Path, timeout_s: float = 5.0) -> dict[str, Any]:
    """Return the status of the agent that uses this state folder.

    Raises:
        AgentError: no agent runs there, or it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            _with_short_name(state, sock.connect)
            parts = []
            while part := sock.recv(65536):
                parts.append(part)
            answer = json.loads(b"".join(parts))
        except TimeoutError as error:
            raise AgentError(f"the agent of {state} does not answer") from error
        except (OSError, ValueError) as error:
            raise AgentError(f"no agent runs with the state folder {state}") from error
    return answer if isinstance(answer, dict) else {}


def _with_short_name(state: Path, action: Callable[[str], None]) -> None:
    """Call with a path to the socket that fits the 108 bytes of a socket address."""
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        action(f"/proc/self/fd/{folder}/{_NAME}")
    finally:
        os.close(folder)

"""The device's side of tuning: runs and times candidates for whoever knows its token.

The server runs machine code that it is sent: that is its purpose. So it is off unless started, listens on loopback
unless told otherwise, and serves nobody without the token.
"""

from __future__ import annotations

import json
import logging
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from io import BufferedIOBase
from typing import Any

from edgec.runtime.tuning.connection import Connection, TuneError
from edgec.targets.detection import machine_arch, machine_features, usable_cores

PROOF_S = 10.0  # for the exchange of proofs
IDLE_S = 1800.0  # without a request, a compile is taken for dead
CANDIDATE_S = 120.0  # for an answer of the worker
log = logging.getLogger("tune-server")


class TuneServer:
    """Listens and serves one compile at a time: candidates of two would slow each other down.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: see `edgec.runtime.tuning.connection`.

    Raises:
        TuneError: the address cannot be used.
    """

    def __init__(self, host: str, port: int, token: bytes) -> None:
        self._token = token
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=4)
        except OSError as error:
            raise TuneError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
        self._busy = threading.Lock()
        self._stop, self._stopped = socket.socketpair()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def serve(self) -> None:
        """Serve until `stop`."""
        while True:
            ready, _, _ = select.select([self._listener, self._stopped], [], [])
            if self._stopped in ready:
                self._listener.close()
                return
            link, peer = self._listener.accept()
            threading.Thread(target=self._serve_one, args=(link, peer[0]), daemon=True).start()

    def stop(self) -> None:
        """End `serve`; usable in a signal handler."""
        self._stop.send(b"x")

    def _serve_one(self, link: socket.socket, peer: str) -> None:
        link.settimeout(PROOF_S)
        with link:
            try:
                connection = Connection(link, self._token, serves=True)
            except TuneError as error:
                log.warning("%s was refused: %s", peer, error)
                return
            if not self._busy.acquire(blocking=False):
                with suppress(TuneError):
                    connection.send({"error": "this device is timing candidates of another compile"})
                return
            try:
                log.info("%s tunes on this device", peer)
                link.settimeout(IDLE_S)
                _Session(connection).run()
            except (TuneError, ValueError, KeyError, TypeError) as error:
                log.info("%s left: %s", peer, error)
            finally:
                self._busy.release()


class _Session:
    """The requests of a compile, passed on to a worker for each workload."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: BufferedIOBase | None = None

    def run(self) -> None:
        """Answer until the compile leaves."""
        about = {"arch": machine_arch(), "features": sorted(machine_features()), "cores": usable_cores()}
        self._connection.send(about)
        try:
            while True:
                request, blob = self._connection.receive()
                if request["op"] == "workload":
                    self._end()
                    self._begin()
                answer, content = self._ask(request, blob)
                self._connection.send(answer, content)
        finally:
            self._end()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "edgec.runtime.tuning.worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        ours.settimeout(CANDIDATE_S)
        self._stream = ours.makefile("rwb")
        ours.close()  # the stream keeps it open

    def _end(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._stream = None

    def _ask(self, request: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], bytes]:
        """The worker's answer; that it died or does not answer is one, too."""
        if self._stream is None or self._process is None:
            return {"error": "no workload was begun, or its process ended"}, b""
        try:
            self._stream.write(json.dumps(request | {"bytes": len(blob)}).encode() + b"\n" + blob)
            self._stream.flush()
            line = self._stream.readline()
            answer: dict[str, Any] = json.loads(line) if line else {}
            content = self._stream.read(answer.pop("bytes", 0))
        except (OSError, ValueError) as error:
            self._end()
            return {"error": f"the candidate does not end: {error}", "ended": True}, b""
        if not line:
            code = self._process.wait()
            self._end()
            how = signal.Signals(-code).name if code < 0 else f"status {code}"
            return {"error": f"the candidate ended its process ({how})", "ended": True}, b""
        return answer, content

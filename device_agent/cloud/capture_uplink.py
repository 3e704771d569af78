"""Uploads the captures of the spool to the fleet server, oldest first, and deletes what the server has.

Its thread sleeps until the inference process reports a new capture, or until the next attempt is due.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from edgec.device_agent.process.causes import clock_cause
from edgec.device_agent.process.retry import Backoff, RetryPolicy
from edgec.device_agent.process.statefile import explain
from edgec.protocol.captures import CAPTURES_PATH, MAX_CAPTURE_BYTES, CaptureMeta

log = logging.getLogger("captures")

_RETRY = RetryPolicy(first_s=2.0, max_s=300.0)
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_AGAIN = frozenset({401, 403, 404, 408, 425, 429, 507})  # 404: a server from before the route was renamed


class NotNow(ConnectionError):
    """The server cannot accept the capture at the moment; `wait_s` is what it requested, or 0."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(frozen=True)
class SpoolState:
    """The spool's state, for health."""

    waiting: int
    bytes: int
    sent: int
    refused: int
    problem: str


class CaptureUplink:
    """Empties the spool for as long as the agent runs."""

    def __init__(
        self,
        folder: Path,
        server: str,
        token: str | None,
        on_sent: Callable[[str], None] = lambda _: None,
        retry: RetryPolicy = _RETRY,
    ) -> None:
        self._folder, self._on_sent, self._backoff = folder, on_sent, Backoff(retry)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=server.rstrip("/"), headers=headers, timeout=_TIMEOUT)
        self._changed = threading.Condition()
        self._new = self._stopping = False
        self.sent = self.refused = 0
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def notify(self) -> None:
        """Send a new capture soon."""
        with self._changed:
            self._new = True
            self._changed.notify()

    def stop(self) -> None:
        """Stop; what has not been sent is sent after the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(2.0)

    def state(self) -> SpoolState:
        """Return what waits and how many were sent and refused."""
        files = self._waiting()
        size = 0
        for path in files:
            for part in (path, path.with_suffix(".jpg")):
                try:
                    size += part.stat().st_size
                except FileNotFoundError:
                    continue  # sent this moment
        return SpoolState(len(files), size, self.sent, self.refused, self.problem)

    def _waiting(self) -> list[Path]:
        try:
            found = [(path.stat().st_mtime_ns, path) for path in self._folder.glob("*.json")]
        except OSError:
            return []  # deleted since it was listed, or there is no folder yet
        return [path for _, path in sorted(found)]

    def _run(self) -> None:
        self._sweep()
        while not self._stopping:
            self._new = False
            wait: float | None = None
            try:
                self._send_all()
                self._backoff.succeeded()
                self.problem = ""
            except NotNow as error:
                wait = max(error.wait_s, self._backoff.failed())
                if self.problem != str(error):
                    log.warning("captures wait: %s", error)
                self.problem = str(error)
            with self._changed:
                # After a failure a new capture does not shorten the wait.
                failed = wait is not None
                self._changed.wait_for(lambda: self._stopping or (self._new and not failed), wait)  # noqa: B023
        self._client.close()

    def _sweep(self) -> None:
        """Delete temporary files, and pictures that a crash left without their second file."""
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.suffix == ".tmp" or (path.suffix == ".jpg" and not path.with_suffix(".json").exists()):
                path.unlink(missing_ok=True)

    def _send_all(self) -> None:
        for path in self._waiting():
            if self._stopping:
                return
            self._send(path)

    def _send(self, path: Path) -> None:
        """Send one capture.

        Raises:
            NotNow: it stays in the spool and is sent later.
        """
        picture = path.with_suffix(".jpg")
        try:
            meta = CaptureMeta.model_validate_json(path.read_bytes())
            image = picture.read_bytes()
        except (FileNotFoundError, ValidationError) as error:
            self._discard(path, f"it is damaged ({type(error).__name__})")
            return
        except OSError as error:
            raise NotNow(f"{path.name} cannot be read: {explain(error)}") from error
        if not image.startswith(b"\xff\xd8") or len(image) > MAX_CAPTURE_BYTES:
            self._discard(path, "its picture is damaged")
            return
        files = {
            "meta": ("meta.json", meta.encode(), "application/json"),
            "image": ("image.jpg", image, "image/jpeg"),
        }
        try:
            answer = self._client.post(CAPTURES_PATH, files=files)
        except httpx.HTTPError as error:
            why = clock_cause(error) or f"the fleet server cannot be reached ({type(error).__name__})"
            raise NotNow(why) from error
        status = answer.status_code
        if status in (200, 201):
            self.sent += 1
            self._delete(path)
            self._on_sent(meta.id)
        elif status in _AGAIN or status >= 500 or status < 400:
            raise NotNow(f"the fleet server answered {status}", _retry_after(answer))
        else:
            self._discard(path, f"the fleet server answered {status}: {answer.text[:200]}")

    def _discard(self, path: Path, why: str) -> None:
        log.error("capture %s is discarded: %s", path.stem, why)
        self.refused += 1
        self._delete(path)

    @staticmethod
    def _delete(path: Path) -> None:
        # The second file first: a picture alone is deleted at the next start.
        try:
            path.unlink(missing_ok=True)
            path.with_suffix(".jpg").unlink(missing_ok=True)
        except OSError as error:
            raise NotNow(f"{path.name} cannot be deleted: {explain(error)}") from error


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return min(_RETRY.max_s, float(value)) if value.isdigit() else 0.0

"""Logging to standard error, one line per entry, as text or JSON, with secrets redacted."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from edgec.protocol.masking import mask

FORMAT_VARIABLE = "EDGEC_AGENT_LOG"
"""Environment variable through which child processes inherit style and level."""


_QUIET_S = 60.0
_NUMBER = re.compile(r"\d+")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return mask(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "part": record.name,
            "message": mask(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))
        return json.dumps(entry, default=str)


class OnceHandler(logging.StreamHandler[Any]):
    """Writes a warning or error once a minute, with the number of those left out in between.

    What fails for each frame or event, as on a full disk, would fill a log that may be on the same disk. Entries that
    differ only in numbers count as the same.
    """

    def __init__(self, stream: Any = None, clock: Callable[[], float] = time.monotonic) -> None:  # noqa: ANN401 - a text stream
        super().__init__(stream)
        self._clock = clock
        self._said: dict[tuple[str, int, str], tuple[float, int, logging.LogRecord]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write an entry, unless the same was written less than a minute ago."""
        now = self._clock()
        self._catch_up(now)
        if record.levelno < logging.WARNING or record.exc_info:
            super().emit(record)
            return
        key = (record.name, record.levelno, _NUMBER.sub("#", record.getMessage()))
        if key in self._said:
            since, left_out, _ = self._said[key]
            self._said[key] = since, left_out + 1, record
            return
        self._said[key] = now, 0, record
        super().emit(record)

    def _catch_up(self, now: float) -> None:
        """Write the last of the entries that were left out, with their number, once their minute is over."""
        for key, (since, left_out, record) in list(self._said.items()):
            if now - since < _QUIET_S:
                continue
            del self._said[key]
            if left_out:
                record.msg = f"{record.getMessage()} ({left_out} such messages in {now - since:.0f} s)"
                record.args = ()
                self._said[key] = now, 0, record
                super().emit(record)

    def close(self) -> None:
        """Write what was left out so far."""
        self._catch_up(self._clock() + 2 * _QUIET_S)
        super().close()


def set_up(style: str | None = None, level: str = "info") -> None:
    """Send every log of this process to standard error, as `text` or `json`."""
    if style is None:
        style, _, level = os.environ.get(FORMAT_VARIABLE, "text:info").partition(":")
    else:
        os.environ[FORMAT_VARIABLE] = f"{style}:{level}"
    handler = OnceHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper() or "INFO", handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Logging to standard error, one line per entry, as text or JSON, with secrets redacted."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import Any

_SECRETS = (
    (re.compile(r"(\w+://[^/\s:@]*):[^/\s@]*@"), r"\1:***@"),
    (
        re.compile(r"(?i)\b(password|token|secret|authorization|api[_-]?key)(\"?\s*[=:]\s*\"?)(?:bearer\s+)?[^\s\"',}&]+"),
        r"\1\2***",
    ),
)  # fmt: skip
FORMAT_VARIABLE = "EDGEC_AGENT_LOG"
"""Environment variable through which child processes inherit style and level."""


def redact(text: str) -> str:
    """Return `text` with passwords in URLs and values of secret-looking keys replaced by `***`."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "part": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, default=str))


def set_up(style: str | None = None, level: str = "info") -> None:
    """Send every log of this process to standard error, as `text` or `json`."""
    if style is None:
        style, _, level = os.environ.get(FORMAT_VARIABLE, "text:info").partition(":")
    else:
        os.environ[FORMAT_VARIABLE] = f"{style}:{level}"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper() or "INFO", handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

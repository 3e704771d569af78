"""Byte ranges of a request (RFC 9110, section 14)."""

from __future__ import annotations

import re

from starlette.requests import Request

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def requested_range(request: Request, etag: str, size: int) -> tuple[int | None, int]:
    """First and last byte of the requested range; None as the first for a range that cannot be satisfied. Several
    ranges at once, and ranges conditional on another `etag`, get the whole blob."""
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or request.headers.get("if-range", etag) != etag or match.groups() == ("", ""):
        return 0, size - 1
    if not match[1]:
        length = min(int(match[2]), size)
        return (size - length if length else None), size - 1
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if first >= size:
        return None, 0
    return (0, size - 1) if last < first else (first, last)

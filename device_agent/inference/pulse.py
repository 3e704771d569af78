"""Which model the inference process is calling, told to the supervisor in shared memory."""

from __future__ import annotations

import zlib


def fingerprint(digest: str) -> int:
    """Return a number for a digest that fits a word of shared memory; 0 for none."""
    return zlib.crc32(digest.encode()) | 1 << 32 if digest else 0

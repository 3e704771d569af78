"""The inference process's pulse: three words of shared memory that the supervisor reads.

They record when the current model call began, which model is being called and which one loaded, so that a hang is
detected and a death can be attributed to a model.
"""

from __future__ import annotations

import mmap
import time
import zlib

import numpy as np

_BEGAN, _CALLED, _LOADING = range(3)


def fingerprint(digest: str) -> int:
    """Return a number for a digest that fits a word of shared memory; 0 for none."""
    return zlib.crc32(digest.encode()) | 1 << 32 if digest else 0


class Pulse:
    """The words, mapped from a descriptor; the inference process writes them."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._words = np.frombuffer(mmap.mmap(fd, 0), np.uint64)

    def reset(self) -> None:
        """A new process begins."""
        self._words[:] = 0

    def call(self, digest: str) -> None:
        """A model is about to be called, or, with an empty digest, has returned."""
        if digest:
            self._words[_CALLED] = fingerprint(digest)
        self._words[_BEGAN] = time.monotonic_ns() if digest else 0

    def load(self, digest: str) -> None:
        """A model is about to be loaded, or, with an empty digest, no model is."""
        self._words[_LOADING] = fingerprint(digest)

    @property
    def call_s(self) -> float:
        """Seconds since the present model call began; 0 when there is none."""
        began = int(self._words[_BEGAN])
        return (time.monotonic_ns() - began) / 1e9 if began else 0.0

    @property
    def suspect(self) -> int:
        """Fingerprint of the model that is called, or else loaded, at this moment; 0 for none."""
        return int(self._words[_CALLED] if self._words[_BEGAN] else self._words[_LOADING])

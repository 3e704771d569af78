"""An artifact's blobs: mapped from a file or a layout folder, and hashed by threads while the load goes on."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from edgec.runtime.artifact import oci
from edgec.runtime.errors import ArtifactError


def map_file(path: Path) -> memoryview:
    """Map a file copy-on-write: its pages are shared with every other process that maps it, and never written.

    Raises:
        ArtifactError: it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ArtifactError(f"{path}: the file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


class BackgroundHashing:
    """Digests of blobs, computed by background threads as soon as this is created.

    They read memory that is mapped from a file. Who gives up a load calls `cancel` before the file may change: a file
    that is cut short while a thread reads it ends the process (SIGBUS).
    """

    def __init__(self, blobs: Mapping[str, memoryview]) -> None:
        self._blobs = blobs
        self._left = sorted(blobs.items(), key=lambda blob: len(blob[1]))
        self._found: dict[str, str] = {}
        self._cancelled = False
        count = min(4, os.cpu_count() or 1, len(blobs))
        self._threads: list[threading.Thread] = []
        with suppress(RuntimeError):  # no thread can be started: `finish` hashes itself
            for _ in range(count):
                thread = threading.Thread(target=self._work, name="edgec-hash", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _work(self) -> None:
        with suppress(IndexError):  # no blob is left
            while True:
                name, content = self._left.pop()
                self._found[name] = oci.digest_of(content, lambda: self._cancelled)

    def cancel(self) -> None:
        """Stop the threads, and wait until none of them reads any more."""
        self._cancelled = True
        self._left.clear()
        for thread in self._threads:
            thread.join()

    def finish(self) -> dict[str, str]:
        """Wait for the digests; returns them by the digests that the blobs should have."""
        self._work()
        for thread in self._threads:
            thread.join()
        # a blob whose thread failed is hashed again here, to raise the error in the caller
        return {
            name: self._found.get(name) or oci.digest_of(content) for name, content in self._blobs.items()
        }


class FolderBlobs(Mapping[str, memoryview]):
    """The blobs of a layout folder, each mapped on first access."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[str, memoryview] = {}

    def __getitem__(self, digest: str) -> memoryview:
        if digest not in self._mapped:
            path = self._folder / oci.blob_path(digest)
            if not oci.is_digest(digest) or not path.is_file():
                raise KeyError(digest)
            self._mapped[digest] = map_file(path)
        return self._mapped[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapped)

    def __len__(self) -> int:
        return len(self._mapped)
